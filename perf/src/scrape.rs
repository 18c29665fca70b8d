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

/// The value of a line that is the metric with the label.
fn value(line: &str, name: &str, label: &str) -> Option<u64> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = rest.rsplit_once(' ')?;
    let is_it = labels.is_empty() || labels.starts_with('{');
    (is_it && labels.contains(label)).then(|| value.parse().ok()).flatten()
}

fn metrics(admin: SocketAddr) -> Outcome<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).reaching(admin)?;
    stream.set_read_timeout(Some(PATIENCE)).reaching(admin)?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
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
