//! The command line itself.

use crate::kit::run;

#[test]
fn help_names_every_command_and_every_exit_code() {
    let help = run(&["--help"]).ends(0).stdout;
    for command in [
        "relay",
        "cat",
        "tail",
        "copy",
        "verify",
        "repair",
        "prune",
        "compact",
        "status",
        "stores",
        "completion",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
        run(&[command, "--help"]).ends(0);
    }
    for code in ["0    fine", "1    the data", "2    wrong usage", "3    a store", "130 "] {
        assert!(help.contains(code), "{code}: {help}");
    }
}

/// The manual shows what the program says; this keeps both honest.
#[test]
fn the_manual_is_what_the_program_says() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap();
    for args in [&["--help"][..], &["relay", "--help"], &["copy", "--help"], &["cat", "--help"], &["stores"]]
    {
        let said = run(args).ends(0).stdout;
        let said = said.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        let shown = manual.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert!(
            shown.contains(said.trim_end()),
            "docs/cli.md must show what `hydrant {}` prints:\n{said}",
            args.join(" ")
        );
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for (args, says) in [
        (&["caat", "-"][..], "similar subcommand"),
        (&["cat"], "<URL>"),
        (&["cat", "-", "--afetr", "5"], "--after"),
        (&["cat", "-", "--after", "-5"], "--after"),
        (&["cat", "-", "--after", "18446744073709551616"], "not an event id"),
        (&["cat", "flie:/tmp"], "did you mean `file`?"),
        (&["cat", "/tmp"], "write `file:/tmp` ("),
        (&["cat", ""], "write `file:DIR`"),
        (&["cat", "file:"], "no directory"),
        (&["cat", "file:/tmp?fsinc=always"], "did you mean `fsync`?"),
        (&["cat", "file:/tmp?fsync=allways"], "did you mean `always`?"),
        (&["cat", "file:/tmp?fsync=-5ms"], "fsync"),
        (&["cat", "file://host/tmp"], "host"),
        (&["cat", "postgres://app@db/shop"], "add log=NAME"),
        (&["cat", "postgresql://app@db/shop?log=a&sslmod=require"], "did you mean `sslmode`?"),
        (&["cat", "postgres://app@db/shop?log=a&sslmode=on"], "`sslmode` of the connection string"),
        (&["cat", "postgres://app@db/shop?lgo=a"], "did you mean `log`?"),
        (&["cat", "postgres:?log=a"], "write postgres://USER@HOST"),
        (&["cat", "postgres:///shop?log=a"], "no `host`"),
        (&["cat", "s3:"], "no bucket"),
        (&["cat", "s3://key:secret@bucket/prefix"], "AWS_ACCESS_KEY_ID"),
        (&["cat", "s3://bucket?endpoint=127.0.0.1:4566"], "http://"),
        (&["cat", "s3://bucket?endpoint=http://key:secret%40127.0.0.1:4566"], "it holds credentials"),
        (&["copy", "-", "s3://bucket?encoding=gzip"], "none of plain, zstd, zstd:LEVEL"),
        (&["copy", "-", "s3://bucket?encoding=zstd:23"], "level of compression"),
        (&["copy", "-", "s3://bucket?encryption=aes"], "none of bucket, s3, kms, kms:KEY"),
        (&["copy", "-", "s3://bucket?tags=team"], "NAME:VALUE"),
        (&["cat", "kinesis://stream"], "add log=NAME"),
        (&["cat", "kinesis://stream/log"], "kinesis://STREAM?log=NAME"),
        (&["cat", "kinesis://stream?log=a&start=yesterday"], "2026-01-05T09:00:00Z"),
        (&["copy", "-", "kinesis://stream?log=a&packing=agregated"], "did you mean `aggregated`?"),
        (&["cat", "kinesis://stream?log=a&explicit_hash_key=7&shards=all"], "exclude each other"),
        (&["repair", "kinesis://stream?log=a"], "under another log=NAME"),
        (&["copy", "-", "udp://127.0.0.1"], "HOST:PORT"),
        (&["copy", "-", "udp://127.0.0.1:70000"], "not a port"),
        (&["copy", "-", "udp://127.0.0.1:9?datagram_bytes_max=1GiB"], "128 to 65507"),
        (&["copy", "-", "udp://127.0.0.1:9?oversize=drop"], "none of park, skip, chunk"),
        (&["copy", "udp://127.0.0.1:9", "-"], "hydrant tail"),
        (&["verify", "udp://127.0.0.1:9"], "not kept"),
        (&["copy", "file:/tmp/a", "file:/tmp/a"], "both source and target"),
        (&["relay", "--from", "-", "--to", "-"], "copy it into a store"),
        (&["relay", "--from", "file:/tmp/a", "--to", "udp://127.0.0.1:9"], "--state-dir"),
        (&["relay", "--from", "file:/tmp/a", "--to", "-"], "--state-dir"),
        (
            &["relay", "--from", "file:/tmp/a", "--to", "file:/tmp/b", "--to", "file:/tmp/c"],
            "a name of its own",
        ),
        (&["relay", "--from", "file:/tmp/a", "--to", "x=file:/tmp/b", "--to", "y=file:/tmp/b"], "keep one"),
        (&["relay", "--from", "file:/tmp/a", "--to", "a/b=file:/tmp/b"], "a/b"),
        (&["tail", "-", "--log", "hydrant=loud"], "--log"),
        (&["tail", "-", "--log", "banana"], "`banana` is no level"),
        (&["tail", "-", "--log", "hydrant=debug,wran"], "did you mean `warn`?"),
        (&["copy", "file:/tmp/a", "file:/tmp/./a/"], "both source and target"),
        (&["relay", "--from", "file:/tmp/a", "--to", "x=file:b", "--to", "y=file:./b"], "two sinks write to"),
        (&["completion", "sh"], "possible values"),
    ] {
        let run = run(args).ends(2).says(&[says]);
        assert!(run.stdout.is_empty(), "{run:?}");
    }
}

#[test]
fn wrong_usage_is_one_json_object_for_machines() {
    for (args, says) in [
        (&["--json", "caat", "-"][..], "'cat'"),
        (&["cat", "--json"], "<URL>"),
        (&["cat", "flie:/tmp", "--json"], "did you mean `file`?"),
        (&["cat", "-", "--json", "--log", "banana"], "`banana` is no level"),
    ] {
        let run = run(args).ends(2);
        let printed: serde_json::Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!((&printed["error"]["kind"], &printed["exit"]), (&"usage".into(), &2.into()), "{printed}");
        let message = printed["error"]["message"].as_str().unwrap();
        assert!(message.contains(says) && !message.contains("Usage:"), "{message}");
    }
    assert!(run(&["cat", "--help", "--json"]).ends(0).stdout.contains("Usage:"));
}

#[test]
fn no_password_is_shown_of_a_command_line_that_is_wrong() {
    let url = "postgres://app:geheim@127.0.0.1:1/shop";
    for args in [
        &["cat", "file:a", url][..],
        &["cat", &format!("{url}?lgo=a")],
        &["cat", &format!("{url}?log=%zz")],
        &["cat", &format!("{url}?log")],
        &["cat", &url.replace("postgres", "postgre")],
        &["cat", &url.replace("postgres://", "")],
        &["cat", &url.replace("postgres://", "postgres:")],
        &["cat", &url.replace("geheim", "ge?heim")],
        &["relay", "--from=file:a", &format!("--to=a={url}?lgo=a")],
        &["relay", "--from", &url.replace("geheim", "%geheim"), "--to", "file:a"],
        &["cat", "postgres://127.0.0.1:1/shop?user=app&password=geheim&lgo=a"],
        &["copy", &format!("file:a?password={url}"), "file:b"],
    ] {
        let printed = run(args).ends(2).stderr;
        assert!(!printed.contains("heim"), "{printed}");
        let printed = run(&[args, &["--json"]].concat()).ends(2).stderr;
        assert!(!printed.contains("heim"), "{printed}");
    }
}

#[test]
fn levels_and_filters_of_the_log_are_taken() {
    for filter in ["off", "WARN", "hydrant", "hydrant_file=debug", "info,hydrant=trace", "tokio=error"] {
        run(&["stores", "--log", filter]).ends(0);
    }
}

#[test]
fn a_log_is_no_state_directory() {
    let (dir, url) = crate::kit::store(0..3);
    let log = dir.path().join("log");
    let to = crate::kit::file(&dir.path().join("to"));
    let args = ["relay", "--from", &url, "--to", &to, "--state-dir", log.to_str().unwrap()];
    run(&args).ends(2).says(&["--state-dir", "holds a log"]);
    assert!(!log.join("roster").exists() && !dir.path().join("to").exists());
}

#[test]
fn stores_lists_every_scheme_with_its_options_and_defaults() {
    let run = run(&["stores", "--json"]).ends(0);
    let schemes: Vec<serde_json::Value> =
        run.lines().into_iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = schemes.iter().map(|scheme| scheme["scheme"].as_str().unwrap()).collect();
    assert_eq!(names, ["file", "postgres", "s3", "kinesis", "udp", "stdio"]);
    let fsync =
        &schemes[0]["options"].as_array().unwrap().iter().find(|option| option["name"] == "fsync").unwrap();
    assert_eq!(fsync["default"], "always");
}

#[test]
fn completion_is_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completion", shell]).ends(0).stdout;
        assert!(script.contains("hydrant") && script.contains("state-dir"), "{shell}");
    }
}
