//! The API's calls. Each needs the access token where the API does.

use super::{
    Account, Api, ApiError, Call, Changed, Conversation, Device, EventPage, Me, Member, Receipts,
    Repeat, SentMessage, Trace, User, encoded,
};
use proto::Uuid;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

/// Conversations asked for at once.
const CONVERSATIONS_PAGE: usize = 100;
/// Names or ids in one search.
const USERS_PAGE: usize = 50;

impl<'a> Call<'a> {
    fn get(target: String) -> Self {
        Self { method: Method::GET, target, token: None, body: None, repeat: Repeat::Safe }
    }

    fn new(method: Method, target: String, body: &Value) -> Self {
        let body = Some(body.to_string().into_bytes());
        Self { method, target, token: None, body, repeat: Repeat::Never }
    }

    fn post(target: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, target.into(), body)
    }

    fn delete(target: String) -> Self {
        Self { method: Method::DELETE, ..Self::get(target) }
    }

    fn with(mut self, token: &'a str) -> Self {
        self.token = Some(token);
        self
    }

    /// Making it twice is as good as making it once.
    fn safe(mut self) -> Self {
        self.repeat = Repeat::Safe;
        self
    }
}

impl Api {
    /// Makes an account and signs its first device in.
    ///
    /// # Errors
    /// `name_taken`; `invalid_argument` for a name or password that is not allowed.
    pub fn register(&self, name: &str, password: &str, device: &str) -> Result<Account, ApiError> {
        let body = json!({ "name": name, "password": password, "device_name": device });
        self.call(&Call::post("/v1/auth/register", &body))
    }

    /// Signs in, as the device `device_id` if it is one of the account's.
    ///
    /// # Errors
    /// `wrong_credentials`.
    pub fn login(
        &self,
        name: &str,
        password: &str,
        device_id: Option<Uuid>,
        device: &str,
    ) -> Result<Account, ApiError> {
        let mut body = json!({ "name": name, "password": password, "device_name": device });
        if let Some(id) = device_id {
            body["device_id"] = json!(id);
        }
        self.call(&Call::post("/v1/auth/login", &body).safe())
    }

    /// Signs in with a one-time code.
    ///
    /// # Errors
    /// `wrong_credentials` for a code that is unknown, used or too old.
    pub fn login_with_code(&self, code: &str, device: &str) -> Result<Account, ApiError> {
        let body = json!({ "code": code, "device_name": device });
        self.call(&Call::post("/v1/auth/code", &body))
    }

    /// New tokens for old. The old refresh token is spent: using it again signs the device out.
    ///
    /// # Errors
    /// `token_invalid` when the device was signed out.
    pub fn refresh(&self, refresh_token: &str) -> Result<Account, ApiError> {
        self.call(&Call::post("/v1/auth/refresh", &json!({ "refresh_token": refresh_token })))
    }

    /// Ends the device's session.
    ///
    /// # Errors
    /// As any call.
    pub fn logout(&self, token: &str, refresh_token: &str) -> Result<(), ApiError> {
        let body = json!({ "refresh_token": refresh_token });
        self.call_without_answer(&Call::post("/v1/auth/logout", &body).with(token).safe())
    }

    /// The public keys of the deployment, as they come.
    ///
    /// # Errors
    /// As any call.
    pub fn jwks(&self) -> Result<Value, ApiError> {
        self.call(&Call::get("/v1/jwks.json".to_owned()))
    }

    /// Who am I?
    ///
    /// # Errors
    /// As any call.
    pub fn me(&self, token: &str) -> Result<Me, ApiError> {
        self.call(&Call::get("/v1/me".to_owned()).with(token))
    }

    /// Users by name; names that nobody has are left out.
    ///
    /// # Errors
    /// As any call.
    pub fn users_by_name(&self, token: &str, names: &[String]) -> Result<Vec<User>, ApiError> {
        self.users(token, "names", names)
    }

    /// Users by id; unknown ids are left out.
    ///
    /// # Errors
    /// As any call.
    pub fn users_by_id(&self, token: &str, ids: &[Uuid]) -> Result<Vec<User>, ApiError> {
        let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        self.users(token, "ids", &ids)
    }

    fn users(&self, token: &str, by: &str, values: &[String]) -> Result<Vec<User>, ApiError> {
        #[derive(Deserialize)]
        struct Users {
            users: Vec<User>,
        }
        let mut users = Vec::new();
        for page in values.chunks(USERS_PAGE) {
            let target = format!("/v1/users?{by}={}", encoded(&page.join(",")));
            users.extend(self.call::<Users>(&Call::get(target).with(token))?.users);
        }
        Ok(users)
    }

    /// All conversations of the user, newest activity first.
    ///
    /// # Errors
    /// As any call.
    pub fn conversations(&self, token: &str) -> Result<Vec<Conversation>, ApiError> {
        #[derive(Deserialize)]
        struct Conversations {
            conversations: Vec<Conversation>,
        }
        let mut all: Vec<Conversation> = Vec::new();
        loop {
            let mut target = format!("/v1/conversations?limit={CONVERSATIONS_PAGE}");
            if let Some(last) = all.last() {
                target = format!("{target}&before={}", last.conversation_id);
            }
            let page: Conversations = self.call(&Call::get(target).with(token))?;
            let full = page.conversations.len() >= CONVERSATIONS_PAGE;
            let known = all.len();
            for conversation in page.conversations {
                // Activity may move a conversation from one page to the other in between.
                if all.iter().all(|it| it.conversation_id != conversation.conversation_id) {
                    all.push(conversation);
                }
            }
            if !full || all.len() == known {
                return Ok(all);
            }
        }
    }

    /// Makes a conversation of the user and these members.
    ///
    /// # Errors
    /// `not_found` for a name that nobody has.
    pub fn create_conversation(
        &self,
        token: &str,
        title: &str,
        names: &[String],
        key: &str,
    ) -> Result<Conversation, ApiError> {
        let body = json!({ "title": title, "members": names, "idempotency_key": key });
        self.call(&Call::post("/v1/conversations", &body).with(token).safe())
    }

    /// One conversation.
    ///
    /// # Errors
    /// `not_a_member`.
    pub fn conversation(&self, token: &str, id: Uuid) -> Result<Conversation, ApiError> {
        self.call(&Call::get(format!("/v1/conversations/{id}")).with(token))
    }

    /// Wants no push requests of a conversation until then, in microseconds since the Unix epoch; nothing:
    /// wants them again.
    ///
    /// # Errors
    /// `not_a_member`.
    pub fn mute(
        &self,
        token: &str,
        id: Uuid,
        until_us: Option<u64>,
    ) -> Result<Conversation, ApiError> {
        let target = format!("/v1/conversations/{id}/mute");
        let body = json!({ "until_us": until_us });
        self.call(&Call::new(Method::PUT, target, &body).with(token).safe())
    }

    /// Who is in it.
    ///
    /// # Errors
    /// `not_a_member`.
    pub fn members(&self, token: &str, id: Uuid) -> Result<Vec<Member>, ApiError> {
        #[derive(Deserialize)]
        struct Members {
            members: Vec<Member>,
        }
        let target = format!("/v1/conversations/{id}/members");
        Ok(self.call::<Members>(&Call::get(target).with(token))?.members)
    }

    /// Adds members by name; who is one already stays one.
    ///
    /// # Errors
    /// `not_a_member`; `not_found` for a name that nobody has.
    pub fn add_members(
        &self,
        token: &str,
        id: Uuid,
        names: &[String],
    ) -> Result<Changed, ApiError> {
        let target = format!("/v1/conversations/{id}/members");
        let key = proto::id::new().to_string();
        let body = json!({ "names": names, "idempotency_key": key });
        self.call(&Call::post(target, &body).with(token).safe())
    }

    /// Removes a member; oneself is to leave.
    ///
    /// # Errors
    /// `not_a_member`, `not_found`.
    pub fn remove_member(&self, token: &str, id: Uuid, user: Uuid) -> Result<Changed, ApiError> {
        let key = proto::id::new();
        let target = format!("/v1/conversations/{id}/members/{user}?idempotency_key={key}");
        self.call(&Call::delete(target).with(token).safe())
    }

    /// A page of the log before `before`, or the newest page.
    ///
    /// # Errors
    /// `not_a_member`.
    pub fn events(
        &self,
        token: &str,
        id: Uuid,
        before: Option<u64>,
        limit: u32,
    ) -> Result<EventPage, ApiError> {
        let before = before.map(|it| format!("&before={it}")).unwrap_or_default();
        let target = format!("/v1/conversations/{id}/events?limit={limit}{before}");
        self.call(&Call::get(target).with(token))
    }

    /// Gives a message of one's own another text.
    ///
    /// # Errors
    /// `not_a_member`, `forbidden` for somebody else's message, `not_found` for one that is deleted or that
    /// one may not see, `message_too_long`, `idempotency_key_conflict`.
    pub fn edit_message(
        &self,
        token: &str,
        (conversation, message): (Uuid, Uuid),
        text: &str,
        key: &str,
    ) -> Result<Changed, ApiError> {
        let target = format!("/v1/conversations/{conversation}/messages/{message}");
        let body = json!({ "text": text, "idempotency_key": key });
        self.call(&Call::new(Method::PATCH, target, &body).with(token).safe())
    }

    /// Deletes a message of one's own, or any in a conversation that one made.
    ///
    /// # Errors
    /// As [`Self::edit_message`].
    pub fn delete_message(
        &self,
        token: &str,
        (conversation, message): (Uuid, Uuid),
        key: &str,
    ) -> Result<Changed, ApiError> {
        let target = format!("/v1/conversations/{conversation}/messages/{message}");
        // Keys are chosen by people, too: no query that would have to be escaped.
        let body = json!({ "idempotency_key": key });
        self.call(&Call::new(Method::DELETE, target, &body).with(token).safe())
    }

    /// Adds a reaction to a message, or takes it back.
    ///
    /// # Errors
    /// `not_a_member`, `not_found` for a message that is deleted or that one may not see, `invalid_argument`,
    /// `idempotency_key_conflict`.
    pub fn react(
        &self,
        token: &str,
        (conversation, message): (Uuid, Uuid),
        (reaction, removed): (&str, bool),
        key: &str,
    ) -> Result<Changed, ApiError> {
        let target = format!("/v1/conversations/{conversation}/messages/{message}/reactions");
        let body = json!({ "reaction": reaction, "removed": removed, "idempotency_key": key });
        self.call(&Call::post(target, &body).with(token).safe())
    }

    /// Sends a message by HTTP, for programs that keep no session.
    ///
    /// # Errors
    /// `not_a_member`, `message_too_long`, `idempotency_key_missing`, `idempotency_key_conflict`.
    pub fn send(
        &self,
        token: &str,
        id: Uuid,
        key: &str,
        text: &str,
    ) -> Result<SentMessage, ApiError> {
        let body = json!({ "text": text, "idempotency_key": key });
        let target = format!("/v1/conversations/{id}/messages");
        self.call(&Call::post(target, &body).with(token).safe())
    }

    /// How far each member's devices have come.
    ///
    /// # Errors
    /// `not_a_member`.
    pub fn receipts(&self, token: &str, id: Uuid) -> Result<Receipts, ApiError> {
        self.call(&Call::get(format!("/v1/conversations/{id}/receipts")).with(token))
    }

    /// What became of a message.
    ///
    /// # Errors
    /// `not_found`, `not_a_member`.
    pub fn trace(&self, token: &str, message: Uuid) -> Result<Trace, ApiError> {
        self.call(&Call::get(format!("/v1/messages/{message}/trace")).with(token))
    }

    /// The user's devices.
    ///
    /// # Errors
    /// As any call.
    pub fn devices(&self, token: &str) -> Result<Vec<Device>, ApiError> {
        #[derive(Deserialize)]
        struct Devices {
            devices: Vec<Device>,
        }
        Ok(self.call::<Devices>(&Call::get("/v1/devices".to_owned()).with(token))?.devices)
    }

    /// Signs a device out.
    ///
    /// # Errors
    /// `not_found`.
    pub fn remove_device(&self, token: &str, device: Uuid) -> Result<(), ApiError> {
        self.call_without_answer(&Call::delete(format!("/v1/devices/{device}")).with(token))
    }
}
