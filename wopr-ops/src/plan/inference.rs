//! What the machine `wopr-gpu` runs: four inference services, and the daemon that speaks for them.
//!
//! The services are on the inner network only. The daemon publishes their ports and lets nobody through to them without
//! a credential.

use std::{collections::BTreeMap, net::Ipv4Addr};

use secrecy::ExposeSecret;
use wopr_core::protocol::gpu::node_secret;

use super::{
    machines,
    platform::{API_PORT, Images, MIB, service},
    production::{Part, Production},
    spec::{Mount, Network, Ready, Service, Stack, Subnet},
};
use crate::{
    images::recipes::{LLAMA_CHAT, LLAMA_EMBEDDINGS, PROBE_PROGRAM, SERVICE_UID, SPEECH_HEALTH, WHISPER_COMMAND},
    secrets::Handover,
};

/// The daemon.
pub(crate) const NODE: &str = "wopr-gpu-node";
/// Text generation.
pub(crate) const LLAMA: &str = "wopr-gpu-llama-cpp";
/// Text-to-speech.
pub(crate) const CHATTERBOX: &str = "wopr-gpu-chatterbox";
/// Speech-to-text.
pub(crate) const WHISPER: &str = "wopr-gpu-whisper";
/// Embeddings.
pub(crate) const EMBEDDINGS: &str = "wopr-gpu-qwen-embeddings";

/// The name the local GPU machine enrols under.
pub(crate) const NODE_ID: &str = "local-gpu-node-001";

/// Ports of the four services on their machine.
pub(crate) const PORTS: [u16; 4] = [8080, 8081, 8082, 8083];

/// The files of the machine's services. The daemon is handed its node's own secret, derived from the one all come from.
pub(crate) fn handovers(shared_secret: &str) -> BTreeMap<&'static str, Handover> {
    let own = node_secret(&shared_secret.to_owned().into(), NODE_ID);
    BTreeMap::from([(NODE, Handover::from([("GPU_NODE_SECRET".to_owned(), own.expose_secret().to_owned())]))])
}

/// All of them; production's own where the machine has a graphics card and what belongs to it.
pub(crate) fn stack(
    images: &Images,
    host: Ipv4Addr,
    handovers: &BTreeMap<&'static str, Handover>,
    handover_directory: &str,
    production: Option<&Production>,
) -> Stack {
    let inference = |part, name, alias, image: &str, command: &[&str], probe: Vec<&'static str>| -> Service {
        let reference = images.get(image).cloned().unwrap_or_default();
        let mut service = service(name, reference, None, handover_directory, SERVICE_UID);
        service.aliases = vec![alias];
        service.command = command.iter().map(|argument| (*argument).to_owned()).collect();
        service.memory_bytes = 512 * MIB;
        // It answers; whether it answers well is what the daemon finds out.
        service.ready = Ready::Probe(probe);
        service.shown_by = Some(NODE);
        if let Some(production) = production {
            production.replace(part, &mut service);
        }
        service
    };
    let llama = || vec![PROBE_PROGRAM, "8080", "/health"];
    let node = {
        let reference = images.get("gpu-node").cloned().unwrap_or_default();
        let mut node = service(NODE, reference, handovers.get(NODE), handover_directory, SERVICE_UID);
        node.set([
            ("NODE_ID", NODE_ID.to_owned()),
            ("STATE_FILE", "/data/state.json".to_owned()),
            ("PROBE_INTERVAL", "1s".to_owned()),
            // Its row is made while it starts.
            ("RETRY_WAIT_MAX", "2s".to_owned()),
            ("PLATFORM_URL", format!("http://{}.{}:{API_PORT}", machines::VPS, machines::NETWORK)),
        ]);
        node.mounts.push(Mount::Volume { name: "wopr-gpu-node-data", target: "/data" });
        node.ports = PORTS.map(|port| (port, port)).to_vec();
        node.after = vec![LLAMA, CHATTERBOX, WHISPER, EMBEDDINGS];
        node.ready = Ready::Http(PORTS.map(|port| (port, "/health")).to_vec());
        if let Some(production) = production {
            production.show(&mut node);
        }
        node
    };
    Stack {
        name: "gpu",
        network: Network {
            name: "wopr-inference",
            subnet: Some(Subnet { whole: "10.191.1.0/24", given: "10.191.1.0/24" }),
        },
        publish: Ipv4Addr::UNSPECIFIED,
        host,
        services: vec![
            inference(Part::Llama, LLAMA, "llama-cpp", "llama", &LLAMA_CHAT, llama()),
            inference(Part::Chatterbox, CHATTERBOX, "chatterbox", "speech", &[], SPEECH_HEALTH.to_vec()),
            inference(
                Part::Whisper,
                WHISPER,
                "whisper",
                "whisper",
                &WHISPER_COMMAND,
                vec![PROBE_PROGRAM, "8000", "/health"],
            ),
            inference(Part::Embeddings, EMBEDDINGS, "qwen-embeddings", "llama", &LLAMA_EMBEDDINGS, llama()),
            node,
        ],
    }
}
