DROP TABLE sign_in_attempts;
DROP TABLE throttle_counters;
DROP TABLE api_keys;
DROP TABLE platform_admins;
DROP TABLE one_time_tokens;
DROP TABLE sessions;
DROP TABLE accounts;
DROP TABLE users;
