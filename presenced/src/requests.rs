//! What gateways ask, checked; and the link's side of it.

use crate::limits::{GATEWAY_ID_BYTES_MAX, QUERY_USERS_MAX, REPORT_SESSIONS_MAX};
use crate::rules::{Named, Report};
use crossbeam_channel::{Sender, TrySendError};
use daemon::link::{Handler, Incoming, Reply};
use proto::error::ErrorCode;
use proto::link::{PresenceReport, PresenceSession, request};
use proto::{Uuid, id};

/// A checked request.
#[derive(Debug)]
pub(crate) enum Asked {
    Report(Report),
    Query(Vec<Uuid>),
}

/// Checks requests and hands them to the core thread.
pub(crate) struct Requests {
    pub(crate) core: Sender<(Asked, Reply)>,
}

impl Handler for Requests {
    fn handle(&self, incoming: Incoming, reply: Reply) {
        let asked = match incoming.request {
            request::Request::PresenceReport(report) => check_report(report).map(Asked::Report),
            request::Request::PresenceQuery(query) => {
                check_query(&query.user_ids).map(Asked::Query)
            }
            _ => {
                let message = "presenced answers presence_report and presence_query alone";
                return reply.refuse(ErrorCode::UnknownFrame, message);
            }
        };
        match asked {
            Err(message) => reply.refuse(ErrorCode::InvalidArgument, message),
            Ok(asked) => match self.core.try_send((asked, reply)) {
                Ok(()) => {}
                Err(TrySendError::Full((_, reply)) | TrySendError::Disconnected((_, reply))) => {
                    reply.refuse(ErrorCode::Overloaded, "too many presence requests are waiting");
                }
            },
        }
    }
}

fn check_query(user_ids: &[u8]) -> Result<Vec<Uuid>, String> {
    let users = id::unpack("user_ids", user_ids).map_err(|error| error.to_string())?;
    if users.len() > QUERY_USERS_MAX {
        return Err(format!("{} users are asked for; at most {QUERY_USERS_MAX}", users.len()));
    }
    Ok(users.collect())
}

fn check_report(report: PresenceReport) -> Result<Report, String> {
    let name = &report.gateway_id;
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b',';
    if name.is_empty() || name.len() > GATEWAY_ID_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(format!(
            "gateway_id is {name:?}; 1 to {GATEWAY_ID_BYTES_MAX} visible ASCII characters other \
             than / and , are required"
        ));
    }
    let number = report.connected.len() + report.disconnected.len() + report.heartbeats.len();
    if number > REPORT_SESSIONS_MAX {
        return Err(format!("{number} sessions are reported; at most {REPORT_SESSIONS_MAX}"));
    }
    let run = id::from_field("gateway_run_id", &report.gateway_run_id);
    Ok(Report {
        gateway: report.gateway_id.as_str().into(),
        run: run.map_err(|error| error.to_string())?,
        connected: sessions(&report.connected)?,
        disconnected: sessions(&report.disconnected)?,
        heartbeats: sessions(&report.heartbeats)?,
    })
}

fn sessions(sessions: &[PresenceSession]) -> Result<Vec<Named>, String> {
    let named = |session: &PresenceSession| -> Result<Named, id::IdError> {
        Ok(Named {
            user: id::from_field("user_id", &session.user_id)?,
            device: id::from_field("device_id", &session.device_id)?,
            connection: session.connection,
        })
    };
    sessions.iter().map(|it| named(it).map_err(|error| error.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(gateway: &str) -> PresenceReport {
        PresenceReport {
            gateway_id: gateway.into(),
            gateway_run_id: vec![1; 16],
            heartbeats: vec![PresenceSession {
                user_id: vec![2; 16],
                device_id: vec![3; 16],
                connection: 4,
            }],
            ..PresenceReport::default()
        }
    }

    #[test]
    fn a_report_is_refused_with_what_is_wrong() {
        assert_eq!(check_report(report("gateway-1")).unwrap().heartbeats[0].connection, 4);
        for name in ["", "a/b", "a,b", "a b", &"x".repeat(65)] {
            assert!(check_report(report(name)).unwrap_err().starts_with("gateway_id is"), "{name}");
        }
        let run = PresenceReport { gateway_run_id: vec![1; 4], ..report("g") };
        assert!(check_report(run).unwrap_err().starts_with("gateway_run_id is 4 bytes"));
        let mut user = report("g");
        user.heartbeats[0].user_id.pop();
        assert!(check_report(user).unwrap_err().starts_with("user_id is 15 bytes"));
    }

    #[test]
    fn a_query_is_whole_ids_and_not_too_many() {
        assert_eq!(check_query(&[7; 32]).unwrap().len(), 2);
        assert!(check_query(&[7; 31]).is_err());
        let many = vec![0; (QUERY_USERS_MAX + 1) * 16];
        assert!(check_query(&many).unwrap_err().contains("at most 4096"));
    }
}
