//! A pump: `server pump PORT FOLDER`. What FOLDER holds and gets is told in `tests/integration/peers/server.py`.

use opcua::core::sync::RwLock;
use opcua::crypto::{CertificateStore, SecurityPolicy, X509};
use opcua::server::address_space::{AddressSpace, ObjectBuilder, VariableBuilder};
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{InMemoryNodeManager, InMemoryNodeManagerBuilder, InMemoryNodeManagerImpl};
use opcua::server::node_manager::{HistoryNode, RequestContext, ServerContext};
use opcua::server::{ContinuationPoint, ServerBuilder, ServerEndpoint, ServerUserToken};
use opcua::types::{
    DataTypeId, DataValue, DateTime, EUInformation, ExtensionObject, HistoryData, LocalizedText, MessageSecurityMode, NodeId,
    ObjectId, ObjectTypeId, QualifiedName, Range, ReadRawModifiedDetails, StatusCode, TimestampsToReturn, VariableTypeId, Variant,
};
use std::collections::HashMap;
use std::fs::{OpenOptions, copy, create_dir_all, read, read_dir, read_to_string};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NAMESPACE: &str = "urn:wearsight:test:plant";
const PERIOD: Duration = Duration::from_millis(100);
const BLOCK: u64 = 256; // samples of a waveform
const HISTORY_PAGE: usize = 20; // values in one answer; the rest behind a continuation point
const TICKS_TO_1970: i64 = 116_444_736_000_000_000; // of 100 ns, from 1601
const BAD_SENSOR: u32 = 0x808C_0000;
const UNCERTAIN_SENSOR: u32 = 0x4093_0000;

/// A channel: name, type, unit, range, whether its values are waveforms, whether there is history of it.
struct Channel(&'static str, DataTypeId, &'static str, f64, f64, bool, bool);

const CHANNELS: [Channel; 4] = [
    Channel("speed_rpm", DataTypeId::Double, "1/min", 0.0, 3600.0, false, true),
    Channel("bearing_temperature_c", DataTypeId::Float, "°C", -40.0, 150.0, false, false),
    Channel("load_pct", DataTypeId::Int32, "%", 0.0, 100.0, false, false),
    Channel("vibration_waveform_m_s2", DataTypeId::Float, "m/s²", -500.0, 500.0, true, true),
];

/// What channel `name` measures at tick k, or nothing.
fn measurement(name: &str, k: u64) -> Option<(u32, Vec<f64>)> {
    let tick = k as f64;
    match name {
        "speed_rpm" if k % 7 == 3 => Some((BAD_SENSOR, vec![tick])), // every seventh is from a broken sensor
        "speed_rpm" => Some((0, vec![1000.0 + tick / 8.0])),
        "bearing_temperature_c" => Some((if k % 11 == 5 { UNCERTAIN_SENSOR } else { 0 }, vec![20.0 + tick / 4.0])),
        "load_pct" => Some((0, vec![(k / 5 % 100) as f64])), // most often what it was before
        _ if k % 5 == 0 => Some((0, (0..BLOCK).map(|i| (k + i) as f64 / 64.0).collect())),
        _ => None,
    }
}

impl Channel {
    fn id(&self, space: u16) -> NodeId {
        NodeId::new(space, format!("pump-01.{}", self.0))
    }

    fn variant(&self, numbers: &[f64]) -> Variant {
        match self.1 {
            _ if self.5 => Variant::from(numbers.iter().map(|&n| n as f32).collect::<Vec<f32>>()),
            DataTypeId::Int32 => Variant::from(numbers[0] as i32),
            DataTypeId::Float => Variant::from(numbers[0] as f32),
            _ => Variant::from(numbers[0]),
        }
    }

    fn data_value(&self, time_ns: i64, status: u32, numbers: &[f64]) -> DataValue {
        DataValue {
            value: Some(self.variant(numbers)),
            status: Some(StatusCode::from(status)),
            source_timestamp: Some(DateTime::from(time_ns / 100 + TICKS_TO_1970)),
            server_timestamp: Some(DateTime::now()),
            ..Default::default()
        }
    }
}

type Past = Arc<RwLock<HashMap<NodeId, Vec<DataValue>>>>;

/// Answers history reads from what was measured; all else is the library's.
struct Historian {
    space: u16,
    past: Past,
}

#[async_trait::async_trait]
impl InMemoryNodeManagerImpl for Historian {
    async fn init(&self, _: &mut AddressSpace, _: ServerContext) {}

    fn name(&self) -> &str {
        "pump"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        vec![NamespaceMetadata { namespace_uri: NAMESPACE.into(), namespace_index: self.space, ..Default::default() }]
    }

    async fn history_read_raw_modified(
        &self,
        _: &RequestContext,
        details: &ReadRawModifiedDetails,
        nodes: &mut [&mut &mut HistoryNode],
        _: TimestampsToReturn,
    ) -> Result<(), StatusCode> {
        let past = self.past.read();
        for node in nodes {
            let Some(values) = past.get(node.node_id()) else {
                node.set_status(StatusCode::BadHistoryOperationUnsupported);
                continue;
            };
            let asked = between(values, details.start_time.ticks(), details.end_time.ticks());
            let from = node.continuation_point().and_then(|point| point.get::<usize>()).copied().unwrap_or(0).min(asked.len());
            let to = (from + HISTORY_PAGE).min(asked.len());
            node.set_result(HistoryData { data_values: Some(asked[from..to].to_vec()) });
            node.set_next_continuation_point((to < asked.len()).then(|| ContinuationPoint::new(Box::new(to))));
            node.set_status(StatusCode::Good);
        }
        Ok(())
    }
}

/// The values from `start` (with) to `end` (without), backwards when `end` is before `start`.
fn between(values: &[DataValue], start: i64, end: i64) -> Vec<DataValue> {
    let inside = |time: i64| if start <= end { start <= time && time < end } else { end < time && time <= start };
    let mut found: Vec<DataValue> =
        values.iter().filter(|value| inside(value.source_timestamp.as_ref().map_or(0, DateTime::ticks))).cloned().collect();
    if end < start {
        found.reverse();
    }
    found
}

/// Serve the pump, and measure for ever.
pub async fn pump(port: u16, folder: &str) {
    trust_clients(Path::new(folder)).expect("the folder holds clients");
    let past = Past::default();
    let historian_past = past.clone();
    let manager = InMemoryNodeManagerBuilder::new(move |context: ServerContext, addresses: &mut AddressSpace| {
        let space = context.type_tree.write().namespaces_mut().add_namespace(NAMESPACE);
        addresses.add_namespace(NAMESPACE, space);
        build(addresses, space);
        Historian { space, past: historian_past }
    });
    let (server, handle) = builder(port, folder).with_node_manager(manager).build().expect("the configuration is sound");
    let plant = handle.node_managers().get_of_type::<InMemoryNodeManager<Historian>>().expect("it was given to the builder");
    let book = format!("{folder}/measured.csv");
    let mut k = remember(&book, plant.inner().space, &past);
    let subscriptions = handle.subscriptions().clone();
    // What was measured last is shown until it is measured anew: nothing is ever shown that is not in the book.
    let last: Vec<(NodeId, DataValue)> =
        past.read().iter().filter_map(|(id, values)| Some((id.clone(), values.last()?.clone()))).collect();
    plant.set_values(&subscriptions, last.iter().map(|(id, value)| (id, None, value.clone()))).expect("they are there");
    let mut measure = move || {
        let time_ns = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as i64 / 100 * 100;
        let space = plant.inner().space;
        let measured: Vec<(&Channel, u32, Vec<f64>)> =
            CHANNELS.iter().filter_map(|c| measurement(c.0, k).map(|(status, numbers)| (c, status, numbers))).collect();
        // First the server's own book, then the address space: what was ever shown is in the book.
        write_down(&book, time_ns, &measured).expect("the book can be written");
        let values: Vec<(NodeId, DataValue)> =
            measured.iter().map(|(c, status, numbers)| (c.id(space), c.data_value(time_ns, *status, numbers))).collect();
        for (id, value) in &values {
            if let Some(all) = past.write().get_mut(id) {
                all.push(value.clone());
            }
        }
        plant.set_values(&subscriptions, values.iter().map(|(id, value)| (id, None, value.clone()))).expect("they are there");
        k += 1;
    };
    measure();
    tokio::spawn(async move {
        let mut timer = tokio::time::interval(PERIOD);
        loop {
            timer.tick().await;
            measure();
        }
    });
    println!("up");
    server.run().await.expect("the server runs");
}

fn builder(port: u16, folder: &str) -> ServerBuilder {
    let endpoint =
        ServerEndpoint::new("/peer", SecurityPolicy::Basic256Sha256, MessageSecurityMode::SignAndEncrypt, &["gateway".to_string()]);
    let mut builder = ServerBuilder::new()
        .application_name("peer")
        .application_uri("urn:wearsight:test:peer")
        .product_uri("urn:wearsight:test:peer")
        .host("127.0.0.1")
        .port(port)
        .discovery_urls(vec![format!("opc.tcp://127.0.0.1:{port}/peer")])
        .pki_dir(folder)
        .certificate_path("server.der")
        .private_key_path("server.key.pem")
        .trust_client_certs(false)
        .add_user_token("gateway", ServerUserToken::user_pass("gateway", "secret"))
        .add_endpoint("secured", endpoint);
    let limits = builder.limits_mut();
    limits.operational.max_nodes_per_read = 2;
    limits.operational.max_nodes_per_browse = 2;
    limits.operational.max_nodes_per_history_read_data = 1;
    limits.operational.max_monitored_items_per_call = 3;
    limits.subscriptions.max_monitored_item_queue_size = 10_000;
    limits.subscriptions.min_publishing_interval_ms = 50.0;
    limits.subscriptions.min_sampling_interval_ms = 0.0;
    builder
}

fn build(addresses: &mut AddressSpace, space: u16) {
    let mut above: NodeId = ObjectId::ObjectsFolder.into();
    for name in ["Machines", "pump-01", "Monitoring"] {
        let id = NodeId::new(space, name);
        let folder = ObjectBuilder::new(&id, QualifiedName::new(space, name), name).has_type_definition(ObjectTypeId::FolderType);
        folder.organized_by(above).insert(addresses);
        above = id;
    }
    let serial = NodeId::new(space, "pump-01.serial_number");
    VariableBuilder::new(&serial, QualifiedName::new(space, "serial_number"), "serial_number")
        .data_type(DataTypeId::String)
        .value("P-4711")
        .has_type_definition(VariableTypeId::BaseDataVariableType)
        .component_of(above.clone())
        .insert(addresses);
    for channel in &CHANNELS {
        add(addresses, space, &above, channel);
    }
}

fn add(addresses: &mut AddressSpace, space: u16, folder: &NodeId, channel: &Channel) {
    let id = channel.id(space);
    let mut node = VariableBuilder::new(&id, QualifiedName::new(space, channel.0), channel.0)
        .data_type(channel.1)
        .value_rank(if channel.5 { 1 } else { -1 })
        .value(channel.variant(&[0.0]))
        .minimum_sampling_interval(0.0)
        .has_type_definition(VariableTypeId::AnalogItemType)
        .component_of(folder.clone());
    if channel.6 {
        node = node.history_readable().historizing(true);
    }
    node.insert(addresses);
    let range = ExtensionObject::from_message(Range { low: channel.3, high: channel.4 });
    let unit = ExtensionObject::from_message(EUInformation {
        namespace_uri: "http://www.opcfoundation.org/UA/units/un/cefact".into(),
        unit_id: -1,
        display_name: LocalizedText::new("en", channel.2),
        description: LocalizedText::null(),
    });
    let mut property = |name: &str, space_of_name: u16, kind: DataTypeId, value: Variant| {
        VariableBuilder::new(&NodeId::new(space, format!("pump-01.{}.{name}", channel.0)), QualifiedName::new(space_of_name, name), name)
            .data_type(kind)
            .value(value)
            .has_type_definition(VariableTypeId::PropertyType)
            .property_of(id.clone())
            .insert(addresses);
    };
    property("EURange", 0, DataTypeId::Range, Variant::from(range));
    property("EngineeringUnits", 0, DataTypeId::EUInformation, Variant::from(unit));
    if channel.5 {
        property("SampleRate", space, DataTypeId::Double, Variant::from(6400.0));
    }
}

/// Put the certificates in `clients` where the library looks for trusted ones, under the names it looks for.
fn trust_clients(folder: &Path) -> std::io::Result<()> {
    create_dir_all(folder.join("trusted"))?;
    for client in read_dir(folder.join("clients"))? {
        let path = client?.path();
        let certificate = X509::from_der(&read(&path)?).expect("clients are certificates");
        copy(&path, folder.join("trusted").join(CertificateStore::cert_file_name(&certificate)))?;
    }
    Ok(())
}

/// Have what the book tells as history; return how many ticks it tells of.
fn remember(book: &str, space: u16, past: &Past) -> u64 {
    let mut past = past.write();
    for channel in CHANNELS.iter().filter(|channel| channel.6) {
        past.insert(channel.id(space), Vec::new());
    }
    let mut ticks = 0;
    for line in read_to_string(book).unwrap_or_default().lines() {
        let parts: Vec<&str> = line.split(',').collect();
        let channel = CHANNELS.iter().find(|channel| channel.0 == parts[0]).expect("the book is ours");
        let numbers: Vec<f64> = parts[3].split(' ').map(|number| number.parse().expect("a number")).collect();
        let value = channel.data_value(parts[1].parse().expect("a time"), parts[2].parse().expect("a status"), &numbers);
        if let Some(all) = past.get_mut(&channel.id(space)) {
            all.push(value);
        }
        ticks += u64::from(channel.0 == "load_pct");
    }
    ticks
}

fn write_down(book: &str, time_ns: i64, measured: &[(&Channel, u32, Vec<f64>)]) -> std::io::Result<()> {
    let mut text = String::new();
    for (channel, status, numbers) in measured {
        let told: Vec<String> = numbers.iter().map(f64::to_string).collect();
        text += &format!("{},{time_ns},{status},{}\n", channel.0, told.join(" "));
    }
    OpenOptions::new().create(true).append(true).open(book)?.write_all(text.as_bytes())
}
