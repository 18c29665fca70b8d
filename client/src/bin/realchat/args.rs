//! The command line.

use clap::{Args, Parser, Subcommand};
use proto::Uuid;
use std::path::PathBuf;
use std::time::Duration;

/// RealChat from a terminal: accounts, conversations, messages, and what is wrong.
///
/// Exit codes: 0 done, 1 refused, 2 usage, 3 unreachable.
#[derive(Debug, Parser)]
#[command(name = "realchat", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Base URL of a gateway, or several separated by commas; if not given: REALCHAT_URL, then the
    /// server that NAME signed in at, then http://127.0.0.1:8080.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// PEM file of certificates to believe besides the system's, for https:// servers of a private
    /// authority; if not given: REALCHAT_CA_FILE.
    #[arg(long = "ca", global = true, value_name = "FILE")]
    pub(crate) authority: Option<PathBuf>,
    /// Whose tokens to use (kept under REALCHAT_HOME); may be left out while there is only one.
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Each line of output is one JSON object; errors are objects on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes an account named NAME and signs in.
    Register(Password),
    /// Signs NAME in, by password or by a one-time code.
    Login(Login),
    /// Signs this device out and forgets its tokens.
    Logout,
    /// Makes a conversation with these members (and yourself).
    Create(Create),
    /// Lists your conversations, newest activity first.
    Conversations,
    /// Lists the members of a conversation, after adding or removing some.
    Members(Members),
    /// Mutes a conversation: no push requests of it, for you, until you say otherwise or for a time.
    Mute(Mute),
    /// Who of these is online? Only those who share a conversation with you are told.
    Presence {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Sends a message and waits until it is durable.
    Send(Send),
    /// Gives a message of yours another text.
    Edit(Edit),
    /// Deletes a message of yours, or any in a conversation that you made.
    Delete(Delete),
    /// Reacts to a message, or takes that back.
    React(React),
    /// Shows events as they come, without gaps and once each.
    Tail(Tail),
    /// Shows a page of a conversation's log.
    History(History),
    /// Prints an access token that is valid for a while.
    Token,
    /// Checks all that keeps newcomers from connecting.
    Doctor,
    /// What became of a message.
    Trace {
        #[arg(value_name = "MESSAGE_ID")]
        message: Uuid,
    },
    /// Dead letters at the Kafka that KAFKA_BROKERS names: records that could not be published or read.
    #[command(subcommand)]
    Dlq(Dlq),
    /// Counts of every message at each stage, by partition, and what is unaccounted for in any of them: then
    /// the exit code is 1.
    Ledger(Ledger),
    /// Answers messages in its conversations until it is stopped.
    Bot {
        /// Signs in with this one-time code first, unless NAME is signed in already.
        #[arg(long, value_name = "CODE", allow_hyphen_values = true)]
        code: Option<String>,
    },
}

/// A PLACE is TOPIC:PARTITION:OFFSET, as the list shows it.
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// An object a line for each that is neither replayed nor dropped.
    List,
    /// One whole.
    Show { place: String },
    /// Publishes them again to the topics that they were meant for.
    Replay {
        /// Or `all`.
        #[arg(required = true)]
        places: Vec<String>,
    },
    /// Puts them aside.
    Drop {
        /// Or `all`.
        #[arg(required = true)]
        places: Vec<String>,
    },
}

impl Dlq {
    /// As the relay's command takes it.
    pub(crate) fn words(&self) -> Vec<&str> {
        match self {
            Self::List => vec!["list"],
            Self::Show { place } => vec!["show", place],
            Self::Replay { places } => words("replay", places),
            Self::Drop { places } => words("drop", places),
        }
    }
}

fn words<'a>(first: &'a str, places: &'a [String]) -> Vec<&'a str> {
    std::iter::once(first).chain(places.iter().map(String::as_str)).collect()
}

#[derive(Debug, Args)]
pub(crate) struct Password {
    /// If not given: REALCHAT_PASSWORD, or it is asked for.
    #[arg(long, value_name = "PASSWORD", allow_hyphen_values = true)]
    pub(crate) password: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    #[command(flatten)]
    pub(crate) password: Password,
    /// A one-time sign-in code in place of the password.
    #[arg(long, value_name = "CODE", conflicts_with = "password", allow_hyphen_values = true)]
    pub(crate) code: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) title: String,
    /// A member's name; several values, or several times.
    #[arg(long = "member", value_name = "NAME", num_args = 1.., required = true)]
    pub(crate) members: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Members {
    #[arg(value_name = "CONV")]
    pub(crate) conversation: Uuid,
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) add: Vec<String>,
    /// Your own name: leave.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Mute {
    #[arg(value_name = "CONV")]
    pub(crate) conversation: Uuid,
    /// A number and s, m, h or d, e.g. 8h; if not given: for ever.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// No longer.
    #[arg(long, conflicts_with = "time")]
    pub(crate) off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    #[arg(value_name = "CONV")]
    pub(crate) conversation: Uuid,
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: String,
    /// The idempotency key: the same key in the same conversation is the same message. If not given,
    /// a fresh one.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Edit {
    #[command(flatten)]
    pub(crate) about: About,
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(crate) about: About,
}

#[derive(Debug, Args)]
pub(crate) struct React {
    #[command(flatten)]
    pub(crate) about: About,
    /// An emoji, or a short word.
    #[arg(allow_hyphen_values = true)]
    pub(crate) reaction: String,
    /// Takes it back.
    #[arg(long)]
    pub(crate) remove: bool,
}

/// A message, and the request's key.
#[derive(Debug, Args)]
pub(crate) struct About {
    #[arg(value_name = "CONV")]
    pub(crate) conversation: Uuid,
    #[arg(value_name = "MESSAGE_ID")]
    pub(crate) message: Uuid,
    /// The idempotency key: the same key in the same conversation is the same change. If not given, a
    /// fresh one.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// One conversation; all of them if not given.
    #[arg(value_name = "CONV")]
    pub(crate) conversation: Option<Uuid>,
    /// Ends after so many events.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Ends after so many seconds.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Begins with this sequence number; if not given, with what happens from now on.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: Option<u64>,
    /// Receipts too, and of large conversations how many members have come how far; those that were
    /// told while the connection was away do not come.
    #[arg(long)]
    pub(crate) receipts: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    #[arg(value_name = "CONV")]
    pub(crate) conversation: Uuid,
    /// Only what lies before this sequence number; if not given, the newest page.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) before: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Ledger {
    /// The folder of the stack (scripts/up --dir DIR); if not given: REALCHAT_DIR, then .run.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keeps the counts in this file, for a later --since.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Only what came since the counts in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,
    /// Watches for so long while messages flow: a line a second for each part of the way, and exit code 1
    /// as soon as something has not come out 10 s after it went in.
    #[arg(long, value_name = "S", conflicts_with = "save",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) watch: Option<u64>,
    /// How long to wait for the counts to come to rest.
    #[arg(long, value_name = "S", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) seconds: u64,
}

/// A day is the longest that anybody can mean by seconds here.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds are a number from 0 to 86400".to_owned()),
    }
}

/// Ten years are the longest that anybody can mean who does not mean for ever.
fn duration(text: &str) -> Result<Duration, String> {
    const S_MAX: u64 = 10 * 366 * 86_400;
    let wrong = || "a duration is a number and s, m, h or d, up to ten years, e.g. 8h".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let unit_s = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit_s).filter(|it| (1..=S_MAX).contains(it));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_bounds() {
        let seconds = |text| duration(text).ok().map(|it| it.as_secs());
        let read = ["90s", "30m", "8h", "2d", "3660d"].map(seconds);
        assert_eq!(read, [90, 1_800, 28_800, 172_800, 316_224_000].map(Some));
        for wrong in ["", "8", "h", "0s", "-1h", "8hh", "1w", "3661d", "99999999999999999999d"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_people_and_servers_choose_may_begin_with_a_hyphen() {
        let bot = Cli::try_parse_from(["realchat", "bot", "--code", "-fX_9"]).unwrap();
        assert!(matches!(bot.command, Command::Bot { code: Some(code) } if code == "-fX_9"));
        let conversation = "01a1ff6d-3c7a-7106-a950-ec4d6e6fd4f2";
        let send = ["realchat", "send", conversation, "-5 degrees", "--key", "-k"];
        let sent = Cli::try_parse_from(send).unwrap();
        let Command::Send(sent) = sent.command else { panic!("{sent:?}") };
        assert_eq!((sent.text.as_str(), sent.key.as_deref()), ("-5 degrees", Some("-k")));
        let login = ["realchat", "--as", "a", "login", "--password", "-secret-"];
        let login = Cli::try_parse_from(login).unwrap();
        let Command::Login(login) = login.command else { panic!("{login:?}") };
        assert_eq!(login.password.password.as_deref(), Some("-secret-"));
    }
}
