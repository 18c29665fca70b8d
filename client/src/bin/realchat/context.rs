//! What every command needs: the server, the name, the tokens, the output.

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;
use crate::store::{Identity, Store};
use client::{Api, Notice, Options, Session, TokenFailure, TokenSource, Trust, websocket_url};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";

#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) api: Api,
    /// Whose certificates are believed.
    pub(crate) trust: Trust,
    pub(crate) store: Store,
    pub(crate) out: Output,
    /// Base URLs, separated by commas.
    pub(crate) server: String,
    name: Option<String>,
    name_given: bool,
}

impl Context {
    pub(crate) fn new(cli: &Cli) -> Result<Self, Failure> {
        let store = Store::open()?;
        let name = cli.name.clone().or_else(|| store.only_name());
        let known = name.as_deref().and_then(|name| store.load(name).ok().flatten());
        let server = cli
            .server
            .clone()
            .or_else(|| std::env::var("REALCHAT_URL").ok().filter(|url| !url.is_empty()))
            .or_else(|| known.map(|identity| identity.server))
            .unwrap_or_else(|| SERVER_DEFAULT.to_owned());
        let urls: Vec<String> = server
            .split([',', ' '])
            .filter(|url| !url.is_empty())
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        for url in &urls {
            websocket_url(url).map_err(Failure::usage)?;
        }
        if urls.is_empty() {
            return Err(Failure::usage("--server names no URL"));
        }
        let server = urls.join(",");
        let out = Output { json: cli.json };
        let file = cli.authority.clone().or_else(|| {
            let file = std::env::var_os("REALCHAT_CA_FILE").filter(|file| !file.is_empty());
            file.map(PathBuf::from)
        });
        let trust = match file {
            Some(file) => Trust::with_file(&file)
                .map_err(|error| Failure::usage(format!("certificates to believe: {error}")))?,
            None => Trust::default(),
        };
        let api = Api::with_trust(urls, &trust);
        Ok(Self { api, trust, store, out, server, name, name_given: cli.name.is_some() })
    }

    /// The same for NAME, whose name was only found out by signing in.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self.clone() }
    }

    /// The NAME that was given on the command line, if one was.
    pub(crate) fn given_name(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.name_given)
    }

    /// Whose command this is.
    pub(crate) fn name(&self) -> Result<&str, Failure> {
        self.name.as_deref().ok_or_else(|| {
            Failure::usage("say who you are: --as NAME (there is not exactly one NAME signed in)")
        })
    }

    /// The signed-in identity, its access token good for a while.
    pub(crate) fn identity(&self) -> Result<Identity, Failure> {
        self.store.fresh(&self.api, self.name()?, None)
    }

    pub(crate) fn token(&self) -> Result<String, Failure> {
        Ok(self.identity()?.access_token)
    }

    /// Options of a session of NAME, and what becomes known of its connection.
    pub(crate) fn options(&self) -> Result<(Options, Connection), Failure> {
        let urls: Result<Vec<String>, String> =
            self.api.urls().iter().map(|url| websocket_url(url)).collect();
        let mut options = Options::new(urls.map_err(Failure::usage)?, self.token_source()?);
        options.trust = self.trust.clone();
        options.client = concat!("realchat/", env!("CARGO_PKG_VERSION")).to_owned();
        let connection = Connection::default();
        let seen = connection.clone();
        options.hook = Some(Arc::new(move |notice| seen.note(notice)));
        Ok((options, connection))
    }

    fn token_source(&self) -> Result<TokenSource, Failure> {
        let (context, name) = (self.clone(), self.name()?.to_owned());
        let given: Mutex<Option<String>> = Mutex::default();
        Ok(Arc::new(move |another| {
            let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
            let refused = given.as_deref().filter(|_| another);
            match context.store.fresh(&context.api, &name, refused) {
                Ok(identity) => Ok(given.insert(identity.access_token).clone()),
                Err(failure) if failure.retryable => Err(TokenFailure::Temporary(failure.message)),
                Err(failure) => Err(TokenFailure::Final(failure.message)),
            }
        }))
    }

    pub(crate) fn connect(&self, options: Options) -> Result<(Session, client::Events), Failure> {
        Session::connect(options).map_err(|error| Failure::unreachable(error.to_string()))
    }
}

/// What is known of a session's connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connection {
    state: Arc<Mutex<ConnectionState>>,
}

#[derive(Debug, Default)]
struct ConnectionState {
    welcomed: bool,
    problem: Option<String>,
}

impl Connection {
    fn note(&self, notice: &Notice) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Welcomed(_) => *state = ConnectionState { welcomed: true, problem: None },
            Notice::DialFailed { problem, .. } => state.problem = Some(problem.clone()),
            Notice::Refused { message, .. } => state.problem = Some(message.clone()),
            Notice::Closed { code, reason, .. } => {
                let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
                state.problem = Some(format!("the connection was closed: {reason}{code}"));
            }
            _ => {}
        }
    }

    /// Was the session ever welcomed?
    pub(crate) fn welcomed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).welcomed
    }

    /// What to say when it takes too long.
    pub(crate) fn failure(&self, server: &str, waited_for: &str) -> Failure {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = state.problem.as_deref().unwrap_or("it does not answer");
        Failure::unreachable(format!("no {waited_for} from {server} in time: {problem}"))
    }
}
