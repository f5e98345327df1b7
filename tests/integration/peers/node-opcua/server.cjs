// A pump behind node-opcua's server: PORT FOLDER. What FOLDER holds and gets is told in ../server.py.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { OPCUAServer } = require("node-opcua-server");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { DataType, DataValue, MessageSecurityMode, SecurityPolicy, StatusCodes, Variant, VariantArrayType } =
  require("node-opcua-client");

const PERIOD_MS = 100;
const BLOCK = 256; // samples of a waveform

const [port, folder] = [Number(process.argv[2]), process.argv[3]];
const inFolder = (name) => path.join(folder, name);
const measured = inFolder("measured.csv");

const CHANNELS = {
  speed_rpm: { type: DataType.Double, unit: "1/min", low: 0, high: 3600, history: true },
  bearing_temperature_c: { type: DataType.Float, unit: "°C", low: -40, high: 150 },
  load_pct: { type: DataType.Int32, unit: "%", low: 0, high: 100 },
  vibration_waveform_m_s2: { type: DataType.Float, unit: "m/s²", low: -500, high: 500, block: BLOCK, sampleRate: 6400, history: true },
};

const variant = ({ type, block }, numbers) =>
  block
    ? new Variant({ dataType: type, arrayType: VariantArrayType.Array, value: Float32Array.from(numbers) })
    : new Variant({ dataType: type, value: numbers[0] });

// What channel measures at tick k, or nothing: [status, numbers].
function measurement(name, k) {
  switch (name) {
    case "speed_rpm": // every seventh is from a broken sensor
      return k % 7 === 3 ? [StatusCodes.BadSensorFailure, [k]] : [StatusCodes.Good, [1000 + k / 8]];
    case "bearing_temperature_c":
      return k % 11 === 5 ? [StatusCodes.UncertainSensorNotAccurate, [20 + k / 4]] : [StatusCodes.Good, [20 + k / 4]];
    case "load_pct": // most often what it was before
      return [StatusCodes.Good, [Math.floor(k / 5) % 100]];
    default:
      return k % 5 === 0 ? [StatusCodes.Good, Array.from({ length: BLOCK }, (_, i) => (k + i) / 64)] : null;
  }
}

function remembered() {
  const lines = fs.existsSync(measured) ? fs.readFileSync(measured, "utf8").split("\n").slice(0, -1) : [];
  return lines.map((line) => {
    const [name, milliseconds, status, numbers] = line.split(",");
    return { name, time: new Date(Number(milliseconds.slice(0, -6))), status: Number(status), numbers: numbers.split(" ") };
  });
}

async function addChannel(namespace, parent, name, channel, past) {
  const node = namespace.addAnalogDataItem({
    componentOf: parent,
    browseName: name,
    nodeId: `s=pump-01.${name}`,
    dataType: DataType[channel.type],
    valueRank: channel.block ? 1 : -1,
    minimumSamplingInterval: 0,
    engineeringUnitsRange: { low: channel.low, high: channel.high },
    engineeringUnits: { namespaceUri: "http://www.opcfoundation.org/UA/units/un/cefact", unitId: -1, displayName: channel.unit },
  });
  if (channel.sampleRate) {
    const value = { dataType: DataType.Double, value: channel.sampleRate };
    namespace.addVariable({ propertyOf: node, browseName: "SampleRate", dataType: "Double", value });
  }
  if (channel.history) {
    namespace.addressSpace.installHistoricalDataNode(node, { maxOnlineValues: 1_000_000 });
    for (const { time, status, numbers } of past) {
      const value = variant(channel, numbers.map(Number));
      const statusCode = Object.values(StatusCodes).find((code) => code.value === status);
      await node.varHistorian.push(new DataValue({ value, statusCode, sourceTimestamp: time }));
    }
  }
  return node;
}

async function main() {
  process.stdin.on("end", () => process.exit()).resume(); // ends with whoever started it
  const certificates = new OPCUACertificateManager({ rootFolder: inFolder("pki"), disableFileWatchers: true });
  await certificates.initialize();
  for (const name of fs.readdirSync(inFolder("clients"))) {
    await certificates.trustCertificate(fs.readFileSync(path.join(inFolder("clients"), name)));
  }
  const server = new OPCUAServer({
    port,
    hostname: "127.0.0.1",
    resourcePath: "/peer",
    serverInfo: { applicationUri: "urn:wearsight:test:peer" },
    serverCertificateManager: certificates,
    userCertificateManager: certificates,
    certificateFile: inFolder("server.pem"),
    privateKeyFile: inFolder("server.key.pem"),
    securityPolicies: [SecurityPolicy.Basic256Sha256],
    securityModes: [MessageSecurityMode.SignAndEncrypt],
    allowAnonymous: false,
    serverCapabilities: {
      operationLimits: { maxNodesPerRead: 2, maxNodesPerBrowse: 2, maxNodesPerHistoryReadData: 1, maxMonitoredItemsPerCall: 3 },
    },
    userManager: { isValidUser: (user, password) => user === "gateway" && password === "secret" },
  });
  await server.initialize();
  const addressSpace = server.engine.addressSpace;
  const namespace = addressSpace.registerNamespace("urn:wearsight:test:plant");
  const machines = namespace.addFolder(addressSpace.rootFolder.objects, { browseName: "Machines" });
  const pump = namespace.addObject({ organizedBy: machines, browseName: "pump-01" });
  const monitoring = namespace.addObject({ componentOf: pump, browseName: "Monitoring" });
  namespace.addVariable({
    componentOf: monitoring, browseName: "serial_number", dataType: "String", value: { dataType: DataType.String, value: "P-4711" },
  });
  const past = remembered();
  const nodes = {};
  for (const [name, channel] of Object.entries(CHANNELS)) {
    nodes[name] = await addChannel(namespace, monitoring, name, channel, past.filter((row) => row.name === name));
  }
  let k = past.filter((row) => row.name === "load_pct").length;
  const measure = () => {
    const time = new Date();
    const rows = Object.keys(CHANNELS).flatMap((name) => {
      const found = measurement(name, k);
      return found ? [{ name, status: found[0], numbers: found[1] }] : [];
    });
    // First the server's own book, then the address space: what was ever shown is in the book.
    fs.appendFileSync(measured, rows.map((r) => `${r.name},${time.getTime()}000000,${r.status.value},${r.numbers.join(" ")}\n`).join(""));
    for (const { name, status, numbers } of rows) {
      nodes[name].setValueFromSource(variant(CHANNELS[name], numbers), status, time);
    }
    k += 1;
  };
  measure();
  await server.start();
  setInterval(measure, PERIOD_MS);
  console.log("up");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
