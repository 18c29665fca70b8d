//! The command `realchat`: RealChat from a terminal, built on the client library.

mod account;
mod args;
mod bot;
mod changes;
mod context;
mod conversations;
mod dlq;
mod doctor;
mod failure;
mod ledger;
mod messages;
mod output;
mod relay;
mod rows;
mod store;
mod tail;

use args::{Cli, Command};
use clap::Parser;
use context::Context;
use failure::{Exit, Failure};
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let out = Output { json: cli.json };
    match Context::new(&cli).and_then(|context| run(&context, &cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            failure.exit.into()
        }
    }
}

fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Register(password) => account::register(context, password),
        Command::Login(login) => account::login(context, login),
        Command::Logout => account::logout(context),
        Command::Token => account::token(context),
        Command::Create(create) => conversations::create(context, create),
        Command::Conversations => conversations::list(context),
        Command::Members(members) => conversations::members(context, members),
        Command::Mute(mute) => conversations::mute(context, mute),
        Command::Presence { names } => conversations::presence(context, names),
        Command::Send(send) => messages::send(context, send),
        Command::Edit(edit) => changes::edit(context, edit),
        Command::Delete(delete) => changes::delete(context, delete),
        Command::React(react) => changes::react(context, react),
        Command::History(history) => messages::history(context, history),
        Command::Trace { message } => messages::trace(context, *message),
        Command::Dlq(dlq) => dlq::run(dlq),
        Command::Tail(tail) => tail::tail(context, tail),
        Command::Ledger(options) => ledger::run(context.out, options),
        Command::Bot { code } => bot::run(context, code.as_deref()),
        Command::Doctor => doctor::doctor(context),
    }
}

/// Help and version go to standard output and are no error.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody reads it: then nobody misses it.
        let _ = error.print();
        return Exit::Done.into();
    }
    if std::env::args().any(|argument| argument == "--json") {
        let message = error.to_string();
        Output { json: true }.failure(&Failure::usage(message.trim_end()));
    } else {
        let _ = error.print();
    }
    Exit::Usage.into()
}
