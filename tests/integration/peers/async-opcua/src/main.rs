//! Servers on async-opcua, for tests and benchmarks: `server load PORT FOLDER NODES PERIOD_MS`, `server pump PORT FOLDER`.
//!
//! FOLDER holds `server.der` and `server.key.pem`. A server says `up` when it is, and ends when its input does.

mod pump;

use opcua::crypto::SecurityPolicy;
use opcua::server::address_space::Variable;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerEndpoint, ServerHandle};
use opcua::types::{DataValue, MessageSecurityMode, NodeId, ObjectId};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

const NAMESPACE: &str = "urn:wearsight:benchmark:plant";
const CHANNELS: usize = 100; // of each machine

#[tokio::main]
async fn main() {
    env_logger::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["load", port, folder, nodes, period_ms] => {
            load(number(port, "PORT") as u16, folder, number(nodes, "NODES") as usize, number(period_ms, "PERIOD_MS")).await;
        }
        ["pump", port, folder] => {
            tokio::spawn(obey(Arc::default(), Arc::default()));
            pump::pump(number(port, "PORT") as u16, folder).await;
        }
        _ => {
            eprintln!("server load PORT FOLDER NODES PERIOD_MS, or server pump PORT FOLDER");
            exit(2);
        }
    }
}

fn number(text: &str, name: &str) -> u64 {
    text.parse().unwrap_or_else(|_| {
        eprintln!("{name} is no number: {text}");
        exit(2)
    })
}

/// Serve NODES variables, 100 to a machine, that all change every PERIOD_MS between the commands `go` and `stop`.
///
/// Their values have all the digits a double has, as those of sensors. `ticks` answers how many times they changed.
async fn load(port: u16, folder: &str, nodes: usize, period_ms: u64) {
    let (server, handle) = builder(port, folder).build().expect("the server's configuration is sound");
    let plant = handle.node_managers().get_of_type::<SimpleNodeManager>().expect("it was given to the builder");
    let ids = add_machines(&handle, &plant, nodes);
    let running = Arc::new(AtomicBool::new(false));
    let ticks = Arc::new(AtomicU64::new(0));
    tokio::spawn(obey(running.clone(), ticks.clone()));
    let subscriptions = handle.subscriptions().clone();
    tokio::spawn(async move {
        // A tick that comes late is made up for: what was promised is offered.
        let mut state = 1u64;
        let mut timer = tokio::time::interval(Duration::from_millis(period_ms));
        loop {
            timer.tick().await;
            if running.load(Ordering::SeqCst) {
                let changes = ids.iter().map(|id| (id, None, DataValue::new_now(noise(&mut state))));
                plant
                    .set_values(&subscriptions, changes)
                    .expect("the nodes are there");
                ticks.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    println!("up");
    server.run().await.expect("the server runs");
}

/// The next of a row of numbers between 0 and 100 that look random (xorshift64).
fn noise(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    100.0 * (*state >> 11) as f64 / (1u64 << 53) as f64
}

/// Both without and with encryption, anonymous, with limits that let large subscriptions through.
fn builder(port: u16, folder: &str) -> ServerBuilder {
    let anonymous = [ANONYMOUS_USER_TOKEN_ID.to_string()];
    let mut builder = ServerBuilder::new()
        .application_name("Wearsight benchmark")
        .application_uri("urn:wearsight:benchmark")
        .product_uri("urn:wearsight:benchmark")
        .host("127.0.0.1")
        .port(port)
        .discovery_urls(vec![format!("opc.tcp://127.0.0.1:{port}/")])
        .pki_dir(folder)
        .certificate_path("server.der")
        .private_key_path("server.key.pem")
        .trust_client_certs(true)
        .add_endpoint(
            "open",
            ServerEndpoint::new("/", SecurityPolicy::None, MessageSecurityMode::None, &anonymous),
        )
        .add_endpoint(
            "secured",
            ServerEndpoint::new("/", SecurityPolicy::Basic256Sha256, MessageSecurityMode::SignAndEncrypt, &anonymous),
        )
        .with_node_manager(simple_node_manager(
            NamespaceMetadata { namespace_uri: NAMESPACE.into(), ..Default::default() },
            "plant",
        ));
    // With the library's own limits large subscriptions end in BadResponseTooLarge or a decoding error.
    let limits = builder.limits_mut();
    limits.max_message_size = 16 * 1024 * 1024;
    limits.max_chunk_count = 4096;
    limits.max_array_length = 100_000;
    limits.operational.max_monitored_items_per_call = 10_000;
    limits.subscriptions.max_monitored_items_per_sub = 100_000;
    limits.subscriptions.max_monitored_item_queue_size = 10_000;
    limits.subscriptions.max_notifications_per_publish = 10_000;
    limits.subscriptions.min_publishing_interval_ms = 20.0;
    limits.subscriptions.min_sampling_interval_ms = 0.0;
    builder
}

/// Add `Machines/machine-00/c00` and so on below Objects, with ids like `s=machine-00.c00`; return their ids.
fn add_machines(handle: &ServerHandle, plant: &SimpleNodeManager, nodes: usize) -> Vec<NodeId> {
    let space = handle.get_namespace_index(NAMESPACE).expect("the plant has its namespace");
    let mut addresses = plant.address_space().write();
    let machines = NodeId::new(space, "Machines");
    addresses.add_folder(&machines, "Machines", "Machines", &ObjectId::ObjectsFolder.into());
    let mut ids = Vec::with_capacity(nodes);
    for first in (0..nodes).step_by(CHANNELS) {
        let name = format!("machine-{:02}", first / CHANNELS);
        let machine = NodeId::new(space, name.as_str());
        addresses.add_folder(&machine, name.as_str(), name.as_str(), &machines);
        let of_machine: Vec<Variable> = (0..CHANNELS.min(nodes - first))
            .map(|i| {
                let channel = format!("c{i:02}");
                let id = NodeId::new(space, format!("{name}.{channel}"));
                ids.push(id.clone());
                Variable::new(&id, channel.as_str(), channel.as_str(), 0.0f64)
            })
            .collect();
        addresses.add_variables(of_machine, &machine);
    }
    ids
}

/// Do what the lines of the input say, and end with it.
async fn obey(running: Arc<AtomicBool>, ticks: Arc<AtomicU64>) {
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.as_str() {
            "go" => running.store(true, Ordering::SeqCst),
            "stop" => running.store(false, Ordering::SeqCst),
            "ticks" => println!("{}", ticks.load(Ordering::SeqCst)),
            other => eprintln!("not understood: {other}"),
        }
    }
    exit(0);
}
