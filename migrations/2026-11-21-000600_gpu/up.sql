-- The order of the stages of a node's set-up; null for a word that is none.
CREATE FUNCTION gpu_stage_rank(stage text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_position(ARRAY['pending', 'creating', 'waiting_active', 'waiting_agent', 'installing_drivers',
                                'installing_docker', 'downloading_models', 'starting_services', 'registering', 'done'],
                          stage)
$$;

-- Machines that serve inference for the whole platform.
CREATE TABLE gpu_nodes (
    id                  text        PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9-]{0,62}$'),
    -- `provider`: we had the machine made. `host`: somebody else's machine that enrolled.
    source              text        NOT NULL CHECK (source IN ('provider', 'host')),
    -- Names this row's machine at the provider, so that a repeated attempt finds it.
    provision_tag       text        NOT NULL UNIQUE,
    droplet_id          text        UNIQUE CHECK (droplet_id <> ''),
    host                text        CHECK (length(host) BETWEEN 1 AND 253),
    region              text        NOT NULL CHECK (length(region) BETWEEN 1 AND 20),
    size                text        NOT NULL CHECK (length(size) BETWEEN 1 AND 50),
    status              text        NOT NULL CHECK (status IN ('provisioning', 'bootstrapping', 'active', 'degraded',
                                                               'failed', 'destroying')),
    provision_stage     text        NOT NULL CHECK (gpu_stage_rank(provision_stage) IS NOT NULL),
    -- Since when it is in this stage, and since when it is being set up: what deadlines are measured from.
    stage_since         timestamptz NOT NULL,
    setup_since         timestamptz NOT NULL,
    monthly_cost_cents  bigint      CHECK (monthly_cost_cents >= 0),
    last_error          text,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CHECK (source = 'provider' OR (droplet_id IS NULL AND host IS NOT NULL)),
    CHECK (status <> 'provisioning' OR gpu_stage_rank(provision_stage) <= gpu_stage_rank('waiting_active')),
    CHECK (status <> 'bootstrapping' OR provision_stage <> 'done'
                                        AND gpu_stage_rank(provision_stage) >= gpu_stage_rank('waiting_agent')),
    CHECK (status NOT IN ('active', 'degraded') OR (provision_stage = 'done' AND host IS NOT NULL)),
    CHECK (status <> 'failed' OR last_error IS NOT NULL)
);
-- Names of machines do not tell cases apart.
CREATE UNIQUE INDEX gpu_nodes_name ON gpu_nodes (lower(id));
CREATE INDEX gpu_nodes_by_status ON gpu_nodes (status);
CREATE INDEX gpu_nodes_by_region ON gpu_nodes (region);

CREATE FUNCTION gpu_nodes_refuse_illegal_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        ('provisioning', 'bootstrapping'), ('provisioning', 'failed'), ('provisioning', 'destroying'),
        ('bootstrapping', 'active'), ('bootstrapping', 'failed'), ('bootstrapping', 'destroying'),
        ('active', 'degraded'), ('active', 'failed'), ('active', 'destroying'),
        ('degraded', 'active'), ('degraded', 'failed'), ('degraded', 'destroying'),
        ('failed', 'provisioning'), ('failed', 'bootstrapping'), ('failed', 'active'), ('failed', 'destroying')
    ) THEN
        RAISE EXCEPTION 'a GPU node cannot go from % to %', OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'gpu_nodes_transition';
    END IF;
    IF gpu_stage_rank(NEW.provision_stage) < gpu_stage_rank(OLD.provision_stage) AND OLD.status <> 'failed' THEN
        RAISE EXCEPTION 'a GPU node''s set-up cannot go back from % to %', OLD.provision_stage, NEW.provision_stage
            USING ERRCODE = 'check_violation', CONSTRAINT = 'gpu_nodes_stage';
    END IF;
    IF OLD.droplet_id IS NOT NULL AND NEW.droplet_id IS DISTINCT FROM OLD.droplet_id THEN
        RAISE EXCEPTION 'a GPU node''s machine is never forgotten or exchanged'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'gpu_nodes_droplet';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER gpu_nodes_transition BEFORE UPDATE ON gpu_nodes
    FOR EACH ROW EXECUTE FUNCTION gpu_nodes_refuse_illegal_changes();

-- What was seen of each node, and where the watchdog and the provisioner stand with it.
CREATE TABLE gpu_progress (
    node_id             text        PRIMARY KEY REFERENCES gpu_nodes ON DELETE CASCADE,
    -- When it was last polled, and when any service that it should have last answered.
    last_health_at      timestamptz,
    last_ok_at          timestamptz,
    -- The last heartbeat of its daemon.
    last_heartbeat_at   timestamptz,
    heartbeat           jsonb,
    -- Which master secret its own was made from.
    master_key          text,
    -- When it first used a secret of its own; the token it was born with is worth nothing from then on.
    identified_at       timestamptz,
    -- The watchdog's: polls in a row in which nothing answered, and the reboot whose effect is awaited.
    all_down_polls      integer     NOT NULL DEFAULT 0 CHECK (all_down_polls >= 0),
    reboot_at           timestamptz,
    -- The provisioner's: an attempt to create whose outcome is not known, failures in a row, when to go on.
    create_attempted_at timestamptz,
    attempts            integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at     timestamptz,
    CHECK ((heartbeat IS NULL) = (last_heartbeat_at IS NULL))
);

-- One row for each of the four services of a node, whether it should have it or not.
CREATE TABLE gpu_services (
    node_id    text        NOT NULL REFERENCES gpu_nodes ON DELETE CASCADE,
    service    text        NOT NULL CHECK (service IN ('llama', 'chatterbox', 'whisper', 'qwen')),
    -- Whether the node is judged by it.
    expected   boolean     NOT NULL,
    -- Null until the first poll.
    state      text        CHECK (state IN ('ok', 'down')),
    latency_ms integer     CHECK (latency_ms >= 0),
    checked_at timestamptz,
    last_ok_at timestamptz,
    -- Since when it is down, and when somebody was told.
    down_since timestamptz,
    told_at    timestamptz,
    PRIMARY KEY (node_id, service),
    CHECK ((state IS NULL) = (checked_at IS NULL)),
    CHECK ((state IS NOT DISTINCT FROM 'down') = (down_since IS NOT NULL)),
    CHECK (told_at IS NULL OR down_since IS NOT NULL)
);
CREATE INDEX gpu_services_healthy ON gpu_services (service) WHERE state = 'ok' AND expected;

-- Every reboot that was wanted: written before the provider is asked, with what came of it afterwards.
CREATE TABLE gpu_reboots (
    id           uuid        PRIMARY KEY,
    node_id      text        NOT NULL REFERENCES gpu_nodes ON DELETE CASCADE,
    reason       text        NOT NULL CHECK (reason IN ('watchdog', 'operator')),
    state        text        NOT NULL CHECK (state IN ('due', 'asked', 'refused', 'dropped')),
    requested_at timestamptz NOT NULL,
    decided_at   timestamptz,
    CHECK ((state = 'due') = (decided_at IS NULL))
);
CREATE INDEX gpu_reboots_by_node ON gpu_reboots (node_id, requested_at);
CREATE INDEX gpu_reboots_due ON gpu_reboots (requested_at) WHERE state = 'due';
