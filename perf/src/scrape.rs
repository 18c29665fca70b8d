//! The gateways' own counters, from their admin ports.

use crate::failure::{Context, Failure, Outcome};
use crate::stack::Stack;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// The sum of one metric over all gateways and all labels that contain `label`.
pub(crate) fn gateways(stack: &Stack, metric: &str, label: &str) -> Outcome<u64> {
    let name = format!("realchat_gateway_{metric}");
    let mut sum = 0;
    for part in stack.parts("GATEWAY_")? {
        let text = metrics(stack.admin(&part)?)?;
        sum += text.lines().filter_map(|line| value(line, &name, label)).sum::<u64>();
    }
    Ok(sum)
}

/// A histogram of all gateways: upper ends of its buckets, and how many observations are up to each.
pub(crate) type Buckets = Vec<(f64, u64)>;

pub(crate) fn histogram(stack: &Stack, metric: &str) -> Outcome<Buckets> {
    let name = format!("realchat_gateway_{metric}_bucket");
    let mut sum = Buckets::new();
    for part in stack.parts("GATEWAY_")? {
        let text = metrics(stack.admin(&part)?)?;
        for (end, count) in text.lines().filter_map(|line| bucket(line, &name)) {
            match sum.iter_mut().find(|it| it.0.total_cmp(&end).is_eq()) {
                Some(bucket) => bucket.1 += count,
                None => sum.push((end, count)),
            }
        }
    }
    sum.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(sum)
}

fn bucket(line: &str, name: &str) -> Option<(f64, u64)> {
    let (_, rest) = line.strip_prefix(name)?.split_once("le=\"")?;
    let (end, rest) = rest.split_once('"')?;
    Some((end.parse().ok()?, rest.rsplit_once(' ')?.1.parse().ok()?))
}

/// What was observed between two scrapes, by quantile, evenly spread within a bucket; 0 of nothing.
#[allow(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn quantile(before: &Buckets, after: &Buckets, quantile: f64) -> f64 {
    let counts: Vec<(f64, f64)> = after
        .iter()
        .map(|(end, count)| {
            let earlier = before.iter().find(|it| it.0.total_cmp(end).is_eq()).map_or(0, |it| it.1);
            (*end, count.saturating_sub(earlier) as f64)
        })
        .collect();
    let wanted = counts.last().map_or(0.0, |it| it.1) * quantile;
    let (mut start, mut below) = (0.0, 0.0);
    for (end, up_to) in counts {
        if up_to >= wanted && up_to > below {
            let share = (wanted - below) / (up_to - below);
            return if end.is_finite() { start + share * (end - start) } else { start };
        }
        (start, below) = (end, up_to);
    }
    0.0
}

/// The value of a line that is the metric with the label.
fn value(line: &str, name: &str, label: &str) -> Option<u64> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = rest.rsplit_once(' ')?;
    let is_it = labels.is_empty() || labels.starts_with('{');
    (is_it && labels.contains(label)).then(|| value.parse().ok()).flatten()
}

/// Whether a daemon says that it is.
pub(crate) fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").is_ok()
}

fn metrics(admin: SocketAddr) -> Outcome<String> {
    get(admin, "/metrics")
}

fn get(admin: SocketAddr, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).reaching(admin)?;
    stream.set_read_timeout(Some(PATIENCE)).reaching(admin)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).reaching(admin)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).reaching(admin)?;
    if answer.starts_with("HTTP/1.1 200") {
        return Ok(answer);
    }
    let status = answer.lines().next().unwrap_or_default().to_owned();
    Err(Failure::Unreachable(format!("{admin}: {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_observed_between_two_scrapes() {
        let name = "realchat_gateway_poll_latency_ms_bucket";
        let line = "realchat_gateway_poll_latency_ms_bucket{le=\"0.5\"} 12";
        assert_eq!(bucket(line, name), Some((0.5, 12)));
        let infinite = "realchat_gateway_poll_latency_ms_bucket{le=\"+Inf\"} 13";
        assert_eq!(bucket(infinite, name), Some((f64::INFINITY, 13)));
        let before = vec![(1.0, 10), (2.0, 10), (f64::INFINITY, 10)];
        let after = vec![(1.0, 10), (2.0, 110), (f64::INFINITY, 111)];
        assert!((quantile(&before, &after, 0.5) - 1.505).abs() < 1e-9);
        assert!((quantile(&before, &after, 1.0) - 2.0).abs() < 1e-9, "no end: its bucket's start");
        assert!(quantile(&before, &before, 0.5).abs() < 1e-9);
        assert!(quantile(&Buckets::new(), &Buckets::new(), 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_metric_is_found_by_its_name_and_label() {
        let name = "realchat_gateway_closed_total";
        assert_eq!(value("realchat_gateway_closed_total 7", name, ""), Some(7));
        let labelled = "realchat_gateway_closed_total{reason=\"flood\",code=\"1008\"} 3";
        assert_eq!(value(labelled, name, "code=\"1008\""), Some(3));
        assert_eq!(value(labelled, name, "code=\"4008\""), None);
        assert_eq!(value("realchat_gateway_closed_total_more 7", name, ""), None);
        assert_eq!(value("# HELP realchat_gateway_closed_total x", name, ""), None);
    }
}
