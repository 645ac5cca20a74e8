//! What servers need, installed once under `target/servers`, in pinned versions.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::tail;
use crate::directory;

/// The directory `target/servers/<name>`, after `make` has filled it once. Other callers wait meanwhile.
pub(crate) fn once(name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    once_in(&directory(), name, make)
}

/// The same below `parent`.
pub(crate) fn once_in(
    parent: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let error = |cause| format!("{}: {cause}", parent.display());
    fs::create_dir_all(parent).map_err(error)?;
    let lock = File::create(parent.join(format!("{name}.lock"))).map_err(error)?;
    lock.lock().map_err(error)?;
    let (dir, done) = (parent.join(name), parent.join(name).join(".complete"));
    if !done.exists() {
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(error)?;
        }
        fs::create_dir_all(&dir).map_err(error)?;
        make(&dir)?;
        File::create(&done).map_err(error)?;
    }
    Ok(dir)
}

/// Writes a file of this crate to where a server's program reads it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))
}

/// Runs a command to its end; its output is the error's.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    run_with(command, Stdio::null())
}

/// The same with something to read.
pub(crate) fn run_with(command: &mut Command, stdin: Stdio) -> Result<(), String> {
    let output = command.stdin(stdin).output();
    let output =
        output.map_err(|cause| format!("{} did not start: {cause}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?} ended with {}:\n{}", output.status, tail(&format!("{stdout}{stderr}"))))
}

/// The Python of a virtual environment that holds these packages, `name==version` a line, with all that they need.
pub(crate) fn python(name: &str, oldest: (u32, u32), packages: &str) -> Result<PathBuf, String> {
    let dir = once(name, |dir| {
        let python = find_python(oldest)?;
        eprintln!("installing {name} under {} (once)", dir.display());
        run(Command::new(&python).args(["-m", "venv"]).arg(dir).env_remove("PYTHONPATH")).map_err(
            |message| format!("{message}\nPython's venv is needed; on Debian: apt-get install python3-venv"),
        )?;
        let list = dir.join("requirements.txt");
        write(&list, packages)?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--no-deps",
        ]);
        run(pip.arg("--requirement").arg(list))
    })?;
    // Not the scripts beside it: these name their first directory, and `target` may have been moved.
    Ok(dir.join("bin/python"))
}

/// A Python of at least this version.
fn find_python(oldest: (u32, u32)) -> Result<PathBuf, String> {
    let (major, minor) = oldest;
    let check = format!("import sys; sys.exit(sys.version_info < ({major}, {minor}))");
    let names = ["python3", "python3.14", "python3.13", "python3.12", "python3.11"];
    let in_path = names.iter().flat_map(in_path);
    let home = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = home.or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let mut versions: Vec<_> = pyenv
        .and_then(|root| fs::read_dir(root.join("versions")).ok())
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin/python3")).collect())
        .unwrap_or_default();
    versions.sort();
    let works = |python: &PathBuf| {
        let status = Command::new(python)
            .args(["-c", &check])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    in_path.chain(versions).find(works).ok_or_else(|| {
        format!("no Python {major}.{minor} or newer (python3); on Debian: apt-get install python3-venv, elsewhere: https://www.python.org/downloads/")
    })
}

/// The directory with Kinesis' mocks of npm below `node_modules`, and the file to preload.
pub(crate) fn node() -> Result<PathBuf, String> {
    once("node-1", |dir| {
        let npm = in_path("npm").next().ok_or_else(no_node)?;
        eprintln!("installing Kinesis' mocks under {} (once)", dir.display());
        write(&dir.join("package.json"), include_str!("../../pins/node/package.json"))?;
        write(&dir.join("package-lock.json"), include_str!("../../pins/node/package-lock.json"))?;
        let flags = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
        run(Command::new(npm).args(flags).current_dir(dir))
    })
}

/// The program `node`.
pub(crate) fn node_program() -> Result<PathBuf, String> {
    in_path("node").next().ok_or_else(no_node)
}

fn no_node() -> String {
    "no Node.js (node, npm); on Debian: apt-get install nodejs npm, elsewhere: https://nodejs.org".to_owned()
}

/// The option of node that keeps a server on loopback. Its file is written anew: it is ours, and may have changed.
pub(crate) fn preload() -> Result<PathBuf, String> {
    let path = directory().join("loopback.cjs");
    let text = include_str!("loopback.cjs");
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(path);
    }
    // Renamed into place: another process may be reading it.
    let new = directory().join(format!("loopback-{}.cjs", std::process::id()));
    fs::create_dir_all(directory()).map_err(|cause| format!("{}: {cause}", directory().display()))?;
    write(&new, text)?;
    fs::rename(&new, &path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Ok(path)
}

/// The programs of this name in `PATH`.
pub(crate) fn in_path(name: impl AsRef<OsStr>) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<_> = std::env::split_paths(&path).collect();
    let name = name.as_ref().to_owned();
    dirs.into_iter().map(move |dir| dir.join(&name)).filter(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace;

    #[test]
    fn what_failed_half_way_is_made_anew_and_what_is_there_is_kept() {
        let parent = std::env::temp_dir().join(namespace());
        let failed = once_in(&parent, "a", |dir| {
            fs::write(dir.join("half"), "").unwrap();
            Err("no network".to_owned())
        });
        assert_eq!(failed, Err("no network".to_owned()));
        let dir = once_in(&parent, "a", |dir| {
            assert!(!dir.join("half").exists());
            Ok(())
        });
        assert_eq!(dir, Ok(parent.join("a")));
        assert_eq!(once_in(&parent, "a", |_| panic!("it is there")), dir);
        fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn two_at_once_install_once() {
        let parent = std::env::temp_dir().join(namespace());
        let made = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    once_in(&parent, "a", |_| {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok(())
                    })
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
        fs::remove_dir_all(parent).unwrap();
    }

    #[test]
    fn an_error_shows_what_the_command_said() {
        let error = run(Command::new("/bin/sh").args(["-c", "echo no space left >&2; exit 3"])).unwrap_err();
        assert!(error.contains("no space left") && error.contains('3'), "{error}");
    }
}
