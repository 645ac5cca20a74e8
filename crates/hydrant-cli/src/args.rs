//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use hydrant::EventId;

use crate::url::StoreUrl;
use crate::values::parse_duration;

const EXIT_CODES: &str = "\
Exit codes:
  0    fine
  1    the data is damaged or incomplete
  2    wrong usage
  3    a store cannot be reached, or refused
  130  ended at once by a second Ctrl-C (143 by a second SIGTERM)

URLs: file:DIR, postgres://USER@HOST/DATABASE?log=NAME, s3://BUCKET/PREFIX, kinesis://STREAM?log=NAME,
udp://HOST:PORT, - (standard input or output); options follow as ?NAME=VALUE&...
`hydrant stores` lists them all. Documentation: docs/cli.md";

/// One durable log, and everything downstream of it: relay, print, copy, check and mend event logs.
#[derive(Debug, Parser)]
#[command(name = "hydrant", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Results and errors as lines of JSON, for machines; no progress bars
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter like hydrant=debug
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "HYDRANT_LOG",
        hide_env_values = true,
        default_value = "warn",
        help_heading = "Everywhere"
    )]
    pub(crate) log: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deliver a log of another writer to any number of sinks, each at its own pace
    Relay(RelayArgs),
    /// Print the events of a log, one line of JSON each
    Cat(CatArgs),
    /// Print events as they come
    Tail(TailArgs),
    /// Copy a log into another store; the same command goes on where an earlier one ended
    Copy(CopyArgs),
    /// Check every checksum, the order of ids and the structure of commits, or compare two stores event by
    /// event; a line for each place that is wrong
    Verify(VerifyArgs),
    /// Mend what can be mended; whatever is taken out is kept aside
    Repair(UrlArgs),
    /// Drop old events: all before the newest snapshot that stands before an event, but nothing that a
    /// secondary of the log still needs
    Prune(PruneArgs),
    /// Merge small segments into larger ones; the log stays the same (s3)
    Compact(UrlArgs),
    /// Show what a store holds: first and last id, count, bytes, segments, checkpoint
    Status(UrlArgs),
    /// List the schemes of URLs and their options
    Stores,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UrlArgs {
    /// The store
    pub(crate) url: StoreUrl,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// Keep this event and all behind it, and whatever stands between it and the snapshot before it
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = event_id)]
    pub(crate) before: EventId,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The store
    pub(crate) url: StoreUrl,
    /// Compare it with this store, event by event, byte for byte
    #[arg(long, value_name = "URL")]
    pub(crate) against: Option<StoreUrl>,
    /// Compare what stands behind this event
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = event_id, requires = "against")]
    pub(crate) after: Option<EventId>,
    /// Compare up to this event
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = event_id, requires = "against")]
    pub(crate) until: Option<EventId>,
    /// Compare what both keep, where one was pruned further than the other
    #[arg(long, requires = "against")]
    pub(crate) common: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// The log to deliver
    #[arg(long, value_name = "URL")]
    pub(crate) from: StoreUrl,
    /// A sink to deliver it to; give it a name where two have the same scheme
    #[arg(long, required = true, value_name = "[NAME=]URL")]
    pub(crate) to: Vec<NamedUrl>,
    /// Go on with whatever comes, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
    /// Where checkpoints are kept for sinks that have no memory (udp, -), and for kinesis
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// End after so long, naming what each sink still misses; without it, retries continue
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "follow")]
    pub(crate) deadline: Option<Duration>,
    /// Start an empty sink at the oldest snapshot, where the log no longer has its beginning
    #[arg(long)]
    pub(crate) from_snapshot: bool,
    /// How long after Ctrl-C sinks may take to get the events that they miss
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The log
    pub(crate) url: StoreUrl,
    /// Begin behind this event
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = event_id, conflicts_with = "snapshot")]
    pub(crate) after: Option<EventId>,
    /// End with this event
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = event_id)]
    pub(crate) until: Option<EventId>,
    /// Begin with the newest snapshot event
    #[arg(long)]
    pub(crate) snapshot: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The log
    pub(crate) url: StoreUrl,
    /// Begin behind this event instead of at the end
    #[arg(long, value_name = "ID", allow_hyphen_values = true, value_parser = event_id, conflicts_with = "origin")]
    pub(crate) after: Option<EventId>,
    /// Begin with the first event instead of at the end
    #[arg(long)]
    pub(crate) origin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The log to read; - reads lines of JSON
    #[arg(value_name = "FROM")]
    pub(crate) from: StoreUrl,
    /// The store to write; - writes lines of JSON
    #[arg(value_name = "TO")]
    pub(crate) to: StoreUrl,
    /// Start an empty target at the oldest snapshot, where the log no longer has its beginning
    #[arg(long)]
    pub(crate) from_snapshot: bool,
}

/// A secondary of a relay: its name, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct NamedUrl {
    pub(crate) name: String,
    pub(crate) url: StoreUrl,
}

impl FromStr for NamedUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A name ends at the first `=`, unless a character of a URL comes before it.
        let named = text.split_once('=').filter(|(name, _)| !name.contains([':', '?', '/']));
        let (name, url) = named.map_or((None, text), |(name, url)| (Some(name), url));
        let url: StoreUrl = url.parse()?;
        let name = name.unwrap_or(url.scheme()).to_owned();
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(format!(
                "the name `{name}` must be of letters, digits, `-`, `_` and `.`, not led by `.`"
            ));
        }
        Ok(Self { name, url })
    }
}

fn event_id(text: &str) -> Result<EventId, String> {
    let id =
        text.parse::<u64>().map_err(|_| format!("`{text}` is not an event id, a number from 0 to 2^64-1"))?;
    Ok(EventId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_secondary_is_named_or_called_by_its_scheme() {
        let name = |text: &str| text.parse::<NamedUrl>().map(|named| named.name);
        assert_eq!(name("out=-").as_deref(), Ok("out"));
        assert_eq!(name("-").as_deref(), Ok("stdio"));
        assert_eq!(name("stdio:?line_bytes_max=1KiB").as_deref(), Ok("stdio"));
        for bad in ["=-", ".hidden=-", "a b=-", "ä=-"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
