-- Schemas and roles. Every service has a schema of its own and a NOLOGIN role with rights to that
-- schema alone; a connection logs in as the database's owner and does SET ROLE. No statement joins
-- tables of two schemas, so that each service may be moved to a database of its own.
--
-- Roles belong to the whole cluster: another database's migration may make them at the same time.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[
        'realchat_accounts', 'realchat_profiles', 'realchat_messaging', 'realchat_relay'
    ] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        IF NOT pg_has_role(current_user, role_name, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', role_name, current_user);
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS accounts;
CREATE SCHEMA IF NOT EXISTS profiles;
CREATE SCHEMA IF NOT EXISTS messaging;

GRANT USAGE ON SCHEMA accounts TO realchat_accounts;
GRANT USAGE ON SCHEMA profiles TO realchat_profiles;
GRANT USAGE ON SCHEMA messaging TO realchat_messaging, realchat_relay;
