-- What users show of themselves, and the directory.

CREATE TABLE IF NOT EXISTS profiles.profiles (
    user_id       uuid PRIMARY KEY,
    name          text COLLATE "C" NOT NULL UNIQUE,
    display_name  text NOT NULL,
    about         text NOT NULL DEFAULT '',
    updated_at_us bigint NOT NULL
) WITH (fillfactor = 90);

-- Search by prefix of the name (its unique index, in collation C) or of the display name.
CREATE INDEX IF NOT EXISTS profiles_display_name
    ON profiles.profiles (lower(display_name) text_pattern_ops);

GRANT SELECT, INSERT, UPDATE ON profiles.profiles TO realchat_profiles;
