//! The failpoints of a build that has them.

use super::{ALL, Injected, PLANTED};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

const VARIABLE: &str = "REALCHAT_FAILPOINTS";
/// The longest sleep, in milliseconds.
const SLEEP_MS_MAX: u64 = 600_000;
const PLANTED_VARIABLE: &str = "REALCHAT_PLANTED_BUG";
/// How far off the clock may be, in milliseconds: a day.
const CLOCK_MS_MAX: i64 = 86_400_000;

/// How many are armed: most of the time none, and then nothing else is looked at.
static ARMED: AtomicUsize = AtomicUsize::new(0);
static ORDERS: Mutex<Vec<Order>> = Mutex::new(Vec::new());
static CLOCK_OFF_US: AtomicI64 = AtomicI64::new(0);
static BUG: OnceLock<&'static str> = OnceLock::new();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Exit,
    Error,
    Sleep(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    name: &'static str,
    action: Action,
    /// How often the place is still passed before the action.
    passes: u64,
}

/// Passes the place `name`: does what was ordered, if it is its turn.
///
/// # Errors
/// If that is to fail.
pub fn reach(name: &'static str) -> Result<(), Injected> {
    if ARMED.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    // The lock is not held while one sleeps: others pass here meanwhile.
    let action = due(&mut ORDERS.lock().unwrap_or_else(PoisonError::into_inner), name);
    match action {
        None => Ok(()),
        Some(Action::Error) => {
            tracing::warn!(name, "failpoint: error");
            Err(Injected(name))
        }
        Some(Action::Sleep(time)) => {
            tracing::warn!(name, ?time, "failpoint: sleep");
            std::thread::sleep(time);
            Ok(())
        }
        Some(Action::Exit) => {
            tracing::warn!(name, "failpoint: exit");
            // Nothing is flushed and nobody is told.
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
            std::process::abort();
        }
    }
}

fn due(orders: &mut Vec<Order>, name: &str) -> Option<Action> {
    let index = orders.iter().position(|it| it.name == name)?;
    if orders[index].passes > 0 {
        orders[index].passes -= 1;
        return None;
    }
    ARMED.fetch_sub(1, Ordering::AcqRel);
    Some(orders.swap_remove(index).action)
}

/// Arms what the orders say.
///
/// # Errors
/// If one of them cannot be read: what is wrong and what is allowed.
pub fn arm(orders: &str) -> Result<(), String> {
    if let Some(ms) = orders.strip_prefix("clock=") {
        CLOCK_OFF_US.store(clock_ms(ms)? * 1_000, Ordering::Relaxed);
        tracing::warn!(ms, "the clock is off by so much");
        return Ok(());
    }
    let read: Vec<Order> = orders.split(',').map(parse).collect::<Result<_, _>>()?;
    ARMED.fetch_add(read.len(), Ordering::AcqRel);
    ORDERS.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
    tracing::warn!(orders, "failpoints armed");
    Ok(())
}

/// Arms what the environment says, if it says something, and plants the defect that it names.
///
/// # Errors
/// As [`arm`]; or what can be planted.
pub fn arm_from_environment() -> Result<(), String> {
    if let Ok(wanted) = std::env::var(PLANTED_VARIABLE)
        && !wanted.is_empty()
    {
        plant(&wanted)?;
    }
    match std::env::var(VARIABLE) {
        Ok(orders) if !orders.is_empty() => {
            arm(&orders).map_err(|error| format!("{VARIABLE}: {error}"))
        }
        _ => Ok(()),
    }
}

fn plant(wanted: &str) -> Result<(), String> {
    let known = PLANTED.into_iter().find(|it| *it == wanted).ok_or_else(|| {
        format!("{PLANTED_VARIABLE} is {wanted:?}, but {} are allowed", PLANTED.join(", "))
    })?;
    let name = BUG.get_or_init(|| known);
    tracing::error!(name, "this process has a defect, for a test");
    Ok(())
}

/// Was this defect planted?
#[must_use]
pub fn is_planted(name: &'static str) -> bool {
    BUG.get() == Some(&name)
}

/// The time as it is told.
pub(crate) fn shifted(now_us: u64) -> u64 {
    now_us.saturating_add_signed(CLOCK_OFF_US.load(Ordering::Relaxed))
}

fn clock_ms(text: &str) -> Result<i64, String> {
    let ms = text.parse().ok().filter(|ms| (-CLOCK_MS_MAX..=CLOCK_MS_MAX).contains(ms));
    ms.ok_or_else(|| {
        format!("{text:?} is no time; milliseconds are, {CLOCK_MS_MAX} at most, with - or without")
    })
}

fn parse(order: &str) -> Result<Order, String> {
    let (name, action) = order.split_once('=').ok_or_else(|| {
        format!(
            "{order:?} is no order; NAME=exit, NAME=error or NAME=sleep:MS is, each with @N or not"
        )
    })?;
    let known = ALL.into_iter().find(|it| *it == name);
    let name =
        known.ok_or_else(|| format!("{name:?} is no failpoint; these are: {}", ALL.join(", ")))?;
    let (action, turn) = action.split_once('@').unwrap_or((action, "1"));
    let turn: u64 = turn
        .parse()
        .ok()
        .filter(|it| *it >= 1)
        .ok_or_else(|| format!("{turn:?} is no turn; a whole number from 1 is"))?;
    let sleep = |ms: &str| ms.parse().ok().filter(|ms| *ms <= SLEEP_MS_MAX);
    let action = match (action, action.strip_prefix("sleep:").and_then(sleep)) {
        ("exit", _) => Action::Exit,
        ("error", _) => Action::Error,
        (_, Some(ms)) => Action::Sleep(Duration::from_millis(ms)),
        _ => {
            return Err(format!(
                "{action:?} is no action; exit, error and sleep:MS (at most {SLEEP_MS_MAX}) are"
            ));
        }
    };
    Ok(Order { name, action, passes: turn - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failpoint::{CHATD_AFTER_ACK, CHATD_BEFORE_COMMIT, RELAY_AFTER_PUBLISH};

    #[test]
    fn orders_are_read_and_what_is_none_is_told_so() {
        let order = parse("chatd.before_commit=sleep:20@3").unwrap();
        let action = Action::Sleep(Duration::from_millis(20));
        assert_eq!(order, Order { name: CHATD_BEFORE_COMMIT, action, passes: 2 });
        for (wrong, says) in [
            ("chatd.before_commit", "NAME=exit"),
            ("chatd.never=exit", "these are: chatd.before_insert"),
            ("chatd.after_ack=explode", "is no action"),
            ("chatd.after_ack=sleep:600001", "at most 600000"),
            ("chatd.after_ack=exit@0", "from 1"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_clock_is_off_until_it_is_set_right() {
        arm("clock=-86400000").unwrap();
        assert_eq!((shifted(86_400_000_001), shifted(5)), (1, 0));
        arm("clock=+1500").unwrap();
        assert_eq!(shifted(5), 1_500_005);
        for wrong in ["clock=", "clock=86400001", "clock=1.5", "clock=1,chatd.after_ack=exit"] {
            assert!(arm(wrong).unwrap_err().contains("is no time"), "{wrong}");
        }
        arm("clock=0").unwrap();
        assert_eq!(shifted(5), 5);
    }

    #[test]
    fn only_known_defects_are_planted_and_one_alone() {
        let error = plant("acks-1").unwrap_err();
        assert!(error.ends_with("mark-before-acknowledgement are allowed"), "{error}");
        plant(crate::failpoint::ASYNCHRONOUS_COMMIT).unwrap();
        let planted = PLANTED.map(is_planted);
        assert_eq!(planted, [false, true, false]);
    }

    #[test]
    fn an_action_comes_at_its_turn_and_once() {
        arm("chatd.after_ack=error@3,relay.after_publish=sleep:1").unwrap();
        assert_eq!(reach(RELAY_AFTER_PUBLISH), Ok(()));
        let turns: Vec<bool> = (0..5).map(|_| reach(CHATD_AFTER_ACK).is_err()).collect();
        assert_eq!(turns, [false, false, true, false, false]);
        assert_eq!(ARMED.load(Ordering::Acquire), 0);
    }
}
