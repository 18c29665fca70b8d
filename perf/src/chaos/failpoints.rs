//! Arming the daemons' failpoints over their admin ports.

use crate::failure::{Context, Failure, Outcome};
use crate::stack::Stack;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(2);

/// Were the stack's daemons built with failpoints?
pub(super) fn are_there(stack: &Stack) -> Outcome<bool> {
    // An order that cannot be read is told so by those that know of orders at all.
    get(stack.admin("CHATD")?, "/failpoint/").map(|answer| answer.contains(" 400 "))
}

/// Gives a daemon an order. One that does not answer, because something else was done to it, is left
/// alone.
pub(super) fn arm(stack: &Stack, part: &str, order: &str) -> Outcome {
    match get(stack.admin(part)?, &format!("/failpoint/{order}")) {
        Ok(answer) if answer.contains(" 200 ") => Ok(()),
        // It came to the point before its answer was written.
        Ok(answer) if !has_status(&answer) => Ok(()),
        Ok(answer) => Err(Failure::Refused(format!("{part} did not take {order}: {answer}"))),
        Err(_) => Ok(()),
    }
}

/// Is it an answer, and not only the beginning of one?
fn has_status(answer: &str) -> bool {
    answer.split_whitespace().nth(1).is_some_and(|status| status.len() == 3)
}

/// The answer's first line.
fn get(admin: SocketAddr, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).reaching(admin)?;
    stream.set_read_timeout(Some(PATIENCE)).reaching(admin)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n").reaching(admin)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).reaching(admin)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_ends_while_it_answers_gave_no_answer() {
        assert!(has_status("HTTP/1.1 400 Bad Request"));
        for cut in ["", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1 4"] {
            assert!(!has_status(cut), "{cut}");
        }
    }
}
