-- Who may sign in, and how. Secrets are kept as hashes only.
-- Times are microseconds since the Unix epoch, here and in every other table.

CREATE TABLE IF NOT EXISTS accounts.users (
    user_id       uuid PRIMARY KEY,
    name          text COLLATE "C" NOT NULL UNIQUE,
    created_at_us bigint NOT NULL,
    CONSTRAINT users_name CHECK (name ~ '^[a-z0-9._-]{2,32}$')
);

-- A user without a row here signs in by one-time code alone.
CREATE TABLE IF NOT EXISTS accounts.credentials (
    user_id       uuid PRIMARY KEY REFERENCES accounts.users ON DELETE CASCADE,
    -- Argon2id, as a PHC string: algorithm, parameters, salt and hash.
    password_hash text NOT NULL,
    updated_at_us bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS accounts.devices (
    device_id       uuid PRIMARY KEY,
    user_id         uuid NOT NULL REFERENCES accounts.users ON DELETE CASCADE,
    name            text NOT NULL,
    created_at_us   bigint NOT NULL,
    last_seen_at_us bigint NOT NULL,
    revoked_at_us   bigint
);
CREATE INDEX IF NOT EXISTS devices_user ON accounts.devices (user_id);

-- One row for each refresh token ever given, so that a second use is noticed. Tokens that
-- descend from one sign-in are a family; a second use of any of them revokes the family.
CREATE TABLE IF NOT EXISTS accounts.refresh_tokens (
    token_hash    bytea PRIMARY KEY, -- SHA-256
    family_id     uuid NOT NULL,
    user_id       uuid NOT NULL REFERENCES accounts.users ON DELETE CASCADE,
    device_id     uuid NOT NULL REFERENCES accounts.devices ON DELETE CASCADE,
    issued_at_us  bigint NOT NULL,
    expires_at_us bigint NOT NULL,
    used_at_us    bigint,
    revoked_at_us bigint
);
CREATE INDEX IF NOT EXISTS refresh_tokens_family ON accounts.refresh_tokens (family_id);
CREATE INDEX IF NOT EXISTS refresh_tokens_device ON accounts.refresh_tokens (device_id);
CREATE INDEX IF NOT EXISTS refresh_tokens_expiry ON accounts.refresh_tokens (expires_at_us);

-- One-time sign-in codes.
CREATE TABLE IF NOT EXISTS accounts.login_codes (
    code_hash     bytea PRIMARY KEY, -- SHA-256
    user_id       uuid NOT NULL REFERENCES accounts.users ON DELETE CASCADE,
    issued_at_us  bigint NOT NULL,
    expires_at_us bigint NOT NULL,
    used_at_us    bigint
);
CREATE INDEX IF NOT EXISTS login_codes_expiry ON accounts.login_codes (expires_at_us);

GRANT SELECT, INSERT ON accounts.users TO realchat_accounts;
GRANT SELECT, INSERT, UPDATE ON accounts.credentials, accounts.devices TO realchat_accounts;
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts.refresh_tokens, accounts.login_codes
    TO realchat_accounts;
