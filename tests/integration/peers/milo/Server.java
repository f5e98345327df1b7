import static org.eclipse.milo.opcua.stack.core.types.builtin.unsigned.Unsigned.uint;

import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.Security;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.eclipse.milo.opcua.sdk.core.AccessLevel;
import org.eclipse.milo.opcua.sdk.core.QualifiedProperty;
import org.eclipse.milo.opcua.sdk.core.Reference;
import org.eclipse.milo.opcua.sdk.server.EndpointConfig;
import org.eclipse.milo.opcua.sdk.server.ManagedNamespaceWithLifecycle;
import org.eclipse.milo.opcua.sdk.server.OpcUaServer;
import org.eclipse.milo.opcua.sdk.server.OpcUaServerConfig;
import org.eclipse.milo.opcua.sdk.server.OpcUaServerConfigLimits;
import org.eclipse.milo.opcua.sdk.server.identity.UsernameIdentityValidator;
import org.eclipse.milo.opcua.sdk.server.items.DataItem;
import org.eclipse.milo.opcua.sdk.server.items.MonitoredItem;
import org.eclipse.milo.opcua.sdk.server.model.variables.AnalogItemType;
import org.eclipse.milo.opcua.sdk.server.model.variables.BaseAnalogType;
import org.eclipse.milo.opcua.sdk.server.nodes.UaFolderNode;
import org.eclipse.milo.opcua.sdk.server.nodes.UaNode;
import org.eclipse.milo.opcua.sdk.server.nodes.UaVariableNode;
import org.eclipse.milo.opcua.stack.core.NodeIds;
import org.eclipse.milo.opcua.stack.core.StatusCodes;
import org.eclipse.milo.opcua.stack.core.security.DefaultApplicationGroup;
import org.eclipse.milo.opcua.stack.core.security.DefaultCertificateManager;
import org.eclipse.milo.opcua.stack.core.security.DefaultServerCertificateValidator;
import org.eclipse.milo.opcua.stack.core.security.MemoryCertificateQuarantine;
import org.eclipse.milo.opcua.stack.core.security.MemoryCertificateStore;
import org.eclipse.milo.opcua.stack.core.security.MemoryTrustListManager;
import org.eclipse.milo.opcua.stack.core.security.RsaSha256CertificateFactory;
import org.eclipse.milo.opcua.stack.core.security.SecurityPolicy;
import org.eclipse.milo.opcua.stack.core.types.builtin.ByteString;
import org.eclipse.milo.opcua.stack.core.types.builtin.DataValue;
import org.eclipse.milo.opcua.stack.core.types.builtin.DateTime;
import org.eclipse.milo.opcua.stack.core.types.builtin.ExtensionObject;
import org.eclipse.milo.opcua.stack.core.types.builtin.LocalizedText;
import org.eclipse.milo.opcua.stack.core.types.builtin.NodeId;
import org.eclipse.milo.opcua.stack.core.types.builtin.StatusCode;
import org.eclipse.milo.opcua.stack.core.types.builtin.Variant;
import org.eclipse.milo.opcua.stack.core.types.builtin.unsigned.UInteger;
import org.eclipse.milo.opcua.stack.core.types.enumerated.MessageSecurityMode;
import org.eclipse.milo.opcua.stack.core.types.enumerated.TimestampsToReturn;
import org.eclipse.milo.opcua.stack.core.types.structured.EUInformation;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryData;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryReadDetails;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryReadResult;
import org.eclipse.milo.opcua.stack.core.types.structured.HistoryReadValueId;
import org.eclipse.milo.opcua.stack.core.types.structured.Range;
import org.eclipse.milo.opcua.stack.core.types.structured.ReadRawModifiedDetails;
import org.eclipse.milo.opcua.stack.transport.server.tcp.OpcTcpServerTransport;
import org.eclipse.milo.opcua.stack.transport.server.tcp.OpcTcpServerTransportConfig;

/** A pump behind Eclipse Milo's server: PORT FOLDER. What FOLDER holds and gets is told in ../server.py. */
public final class Server {
  static final long PERIOD_MS = 100;
  static final int BLOCK = 256; // samples of a waveform
  static final int HISTORY_PAGE = 20; // values in one answer; the rest behind a continuation point

  /** A channel: what it is, and what it measures at tick k, or null. */
  record Channel(String name, NodeId type, String unit, double low, double high, boolean isArray, boolean hasHistory) {
    Measured at(long k, Instant time) {
      return switch (name) {
        case "speed_rpm" -> // every seventh is from a broken sensor
            k % 7 == 3
                ? new Measured(name, time, StatusCodes.Bad_SensorFailure, List.of((double) k))
                : new Measured(name, time, StatusCodes.Good, List.of(1000 + k / 8.0));
        case "bearing_temperature_c" ->
            new Measured(
                name, time, k % 11 == 5 ? StatusCodes.Uncertain_SensorNotAccurate : StatusCodes.Good, List.of(20 + k / 4.0));
        case "load_pct" -> // most often what it was before
            new Measured(name, time, StatusCodes.Good, List.of((double) (k / 5 % 100)));
        default ->
            k % 5 == 0
                ? new Measured(
                    name, time, StatusCodes.Good, IntStream.range(0, BLOCK).mapToObj(i -> (k + i) / 64.0).toList())
                : null;
      };
    }

    DataValue dataValue(Measured m) {
      return new DataValue(variant(m.numbers), new StatusCode(m.status), new DateTime(m.time), DateTime.now());
    }

    Variant variant(List<Double> numbers) {
      if (isArray) {
        return Variant.ofFloatArray(numbers.stream().map(Double::floatValue).toArray(Float[]::new));
      }
      double number = numbers.get(0);
      if (type.equals(NodeIds.Int32)) return Variant.ofInt32((int) number);
      return type.equals(NodeIds.Float) ? Variant.ofFloat((float) number) : Variant.ofDouble(number);
    }
  }

  static final List<Channel> CHANNELS =
      List.of(
          new Channel("speed_rpm", NodeIds.Double, "1/min", 0, 3600, false, true),
          new Channel("bearing_temperature_c", NodeIds.Float, "°C", -40, 150, false, false),
          new Channel("load_pct", NodeIds.Int32, "%", 0, 100, false, false),
          new Channel("vibration_waveform_m_s2", NodeIds.Float, "m/s²", -500, 500, true, true));

  /** One line of the server's own book. */
  record Measured(String name, Instant time, long status, List<Double> numbers) {
    static Measured read(String line) {
      String[] parts = line.split(",");
      long ns = Long.parseLong(parts[1]);
      Instant time = Instant.ofEpochSecond(ns / 1_000_000_000, ns % 1_000_000_000);
      List<Double> numbers = List.of(parts[3].split(" ")).stream().map(Double::valueOf).toList();
      return new Measured(parts[0], time, Long.parseLong(parts[2]), numbers);
    }

    String line() {
      long ns = time.getEpochSecond() * 1_000_000_000 + time.getNano();
      String told = numbers.stream().map(String::valueOf).collect(Collectors.joining(" "));
      return "%s,%d,%d,%s\n".formatted(name, ns, status, told);
    }
  }

  /** The pump. Changes are told to the monitored items as they happen, not sampled. */
  static final class Plant extends ManagedNamespaceWithLifecycle {
    final Path book;
    final Map<String, UaVariableNode> nodes = new LinkedHashMap<>();
    final Map<NodeId, List<DataValue>> history = new ConcurrentHashMap<>();
    final Set<DataItem> items = ConcurrentHashMap.newKeySet();
    long k;

    Plant(OpcUaServer server, Path book) {
      super(server, "urn:wearsight:test:plant");
      this.book = book;
      getLifecycleManager().addStartupTask(this::build);
    }

    void build() {
      UaNode machines = folder("Machines");
      machines.addReference(
          new Reference(machines.getNodeId(), NodeIds.Organizes, NodeIds.ObjectsFolder.expanded(), Reference.Direction.INVERSE));
      UaNode pump = folder("pump-01");
      machines.addReference(
          new Reference(machines.getNodeId(), NodeIds.Organizes, pump.getNodeId().expanded(), Reference.Direction.FORWARD));
      UaNode monitoring = folder("Monitoring");
      pump.addReference(
          new Reference(pump.getNodeId(), NodeIds.HasComponent, monitoring.getNodeId().expanded(), Reference.Direction.FORWARD));
      for (Channel channel : CHANNELS) nodes.put(channel.name, add(monitoring, channel));
      variable(monitoring, "serial_number", NodeIds.String, NodeIds.BaseDataVariableType, false)
          .setValue(new DataValue(Variant.ofString("P-4711")));
    }

    UaNode folder(String name) {
      UaNode node = new UaFolderNode(getNodeContext(), newNodeId(name), newQualifiedName(name), LocalizedText.english(name));
      getNodeManager().addNode(node);
      return node;
    }

    UaVariableNode add(UaNode parent, Channel channel) {
      UaVariableNode node = variable(parent, channel.name, channel.type, NodeIds.AnalogItemType, channel.hasHistory);
      node.setValueRank(channel.isArray ? 1 : -1);
      node.setProperty(AnalogItemType.EU_RANGE, new Range(channel.low, channel.high));
      node.setProperty(
          BaseAnalogType.ENGINEERING_UNITS,
          new EUInformation(
              "http://www.opcfoundation.org/UA/units/un/cefact", -1, LocalizedText.english(channel.unit), LocalizedText.NULL_VALUE));
      if (channel.isArray) {
        node.setProperty(new QualifiedProperty<>(getNamespaceUri(), "SampleRate", NodeIds.Double.expanded(), -1, Double.class), 6400.0);
      }
      if (channel.hasHistory) history.put(node.getNodeId(), new ArrayList<>());
      return node;
    }

    UaVariableNode variable(UaNode parent, String name, NodeId type, NodeId definition, boolean hasHistory) {
      Set<AccessLevel> access = hasHistory ? Set.of(AccessLevel.CurrentRead, AccessLevel.HistoryRead) : AccessLevel.READ_ONLY;
      UaVariableNode node =
          UaVariableNode.builder(getNodeContext())
              .setNodeId(newNodeId("pump-01." + name))
              .setBrowseName(newQualifiedName(name))
              .setDisplayName(LocalizedText.english(name))
              .setDataType(type)
              .setTypeDefinition(definition)
              .setMinimumSamplingInterval(0.0)
              .setAccessLevel(access)
              .setUserAccessLevel(access)
              .setHistorizing(hasHistory)
              .build();
      getNodeManager().addNode(node);
      parent.addReference(
          new Reference(parent.getNodeId(), NodeIds.HasComponent, node.getNodeId().expanded(), Reference.Direction.FORWARD));
      return node;
    }

    void remember() throws Exception {
      if (!Files.exists(book)) return;
      for (String line : Files.readAllLines(book)) {
        Measured past = Measured.read(line);
        Channel channel = CHANNELS.stream().filter(c -> c.name.equals(past.name)).findFirst().orElseThrow();
        if (channel.name.equals("load_pct")) k++;
        if (channel.hasHistory) history.get(nodes.get(past.name).getNodeId()).add(channel.dataValue(past));
      }
    }

    synchronized void measure() {
      Instant now = Instant.now();
      Instant time = now.minusNanos(now.getNano() % 100); // as fine as OPC UA tells
      Map<Channel, Measured> found = new LinkedHashMap<>();
      for (Channel channel : CHANNELS) {
        Measured measured = channel.at(k, time);
        if (measured != null) found.put(channel, measured);
      }
      k++;
      try { // First the server's own book, then the address space: what was ever shown is in the book.
        Files.writeString(
            book,
            found.values().stream().map(Measured::line).collect(Collectors.joining()),
            StandardOpenOption.CREATE,
            StandardOpenOption.APPEND);
      } catch (Exception error) {
        error.printStackTrace();
        System.exit(1);
      }
      found.forEach((channel, measured) -> show(nodes.get(channel.name), channel.dataValue(measured)));
    }

    void show(UaVariableNode node, DataValue value) {
      node.setValue(value);
      if (history.containsKey(node.getNodeId())) history.get(node.getNodeId()).add(value);
      for (DataItem item : items) {
        if (item.isSamplingEnabled() && item.getReadValueId().getNodeId().equals(node.getNodeId())) item.setValue(value);
      }
    }

    @Override
    public synchronized List<HistoryReadResult> historyRead(
        HistoryReadContext context, HistoryReadDetails details, TimestampsToReturn timestamps, List<HistoryReadValueId> ids) {
      return ids.stream().map(id -> page((ReadRawModifiedDetails) details, id)).toList();
    }

    HistoryReadResult page(ReadRawModifiedDetails details, HistoryReadValueId id) {
      List<DataValue> all = history.get(id.getNodeId());
      if (all == null) {
        return new HistoryReadResult(new StatusCode(StatusCodes.Bad_HistoryOperationUnsupported), ByteString.NULL_VALUE, null);
      }
      List<DataValue> asked =
          all.stream()
              .filter(v -> v.getSourceTime().getUtcTime() >= details.getStartTime().getUtcTime())
              .filter(v -> v.getSourceTime().getUtcTime() < details.getEndTime().getUtcTime())
              .toList();
      byte[] point = id.getContinuationPoint().bytes();
      int from = point == null ? 0 : Integer.parseInt(new String(point, StandardCharsets.US_ASCII));
      int to = Math.min(from + HISTORY_PAGE, asked.size());
      ByteString next =
          to < asked.size() ? ByteString.of(String.valueOf(to).getBytes(StandardCharsets.US_ASCII)) : ByteString.NULL_VALUE;
      DataValue[] values = asked.subList(Math.min(from, to), to).toArray(DataValue[]::new);
      ExtensionObject data = ExtensionObject.encode(getServer().getStaticEncodingContext(), new HistoryData(values));
      return new HistoryReadResult(StatusCode.GOOD, next, data);
    }

    @Override
    public synchronized void onDataItemsCreated(List<DataItem> created) {
      items.addAll(created);
      for (DataItem item : created) {
        UaNode node = getNodeManager().get(item.getReadValueId().getNodeId());
        if (node instanceof UaVariableNode variable) item.setValue(variable.getValue());
      }
    }

    @Override
    public void onDataItemsModified(List<DataItem> modified) {}

    @Override
    public void onDataItemsDeleted(List<DataItem> deleted) {
      deleted.forEach(items::remove);
    }

    @Override
    public void onMonitoringModeChanged(List<MonitoredItem> changed) {}
  }

  /** Very few nodes in one request, as small controllers have it. */
  static final class Limits implements OpcUaServerConfigLimits {
    @Override
    public UInteger getMaxNodesPerRead() {
      return uint(2);
    }

    @Override
    public UInteger getMaxNodesPerBrowse() {
      return uint(2);
    }

    @Override
    public UInteger getMaxNodesPerHistoryReadData() {
      return uint(1);
    }

    @Override
    public UInteger getMaxMonitoredItemsPerCall() {
      return uint(3);
    }
  }

  static X509Certificate certificate(Path path) throws Exception {
    try (InputStream stream = Files.newInputStream(path)) {
      return (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(stream);
    }
  }

  static DefaultCertificateManager certificates(Path folder, X509Certificate own) throws Exception {
    var key = new PKCS8EncodedKeySpec(Files.readAllBytes(folder.resolve("server.key.der")));
    KeyPair pair = new KeyPair(own.getPublicKey(), KeyFactory.getInstance("RSA").generatePrivate(key));
    var factory =
        new RsaSha256CertificateFactory() {
          @Override
          public KeyPair createRsaSha256KeyPair() {
            return pair;
          }

          @Override
          public X509Certificate[] createRsaSha256CertificateChain(KeyPair ignored) {
            return new X509Certificate[] {own};
          }
        };
    var trusted = new MemoryTrustListManager();
    try (var clients = Files.list(folder.resolve("clients"))) {
      for (Path client : clients.toList()) trusted.addTrustedCertificate(certificate(client));
    }
    var quarantine = new MemoryCertificateQuarantine();
    var validator = new DefaultServerCertificateValidator(trusted, quarantine);
    var group = DefaultApplicationGroup.createAndInitialize(trusted, new MemoryCertificateStore(), factory, validator);
    return new DefaultCertificateManager(quarantine, group);
  }

  public static void main(String[] arguments) throws Exception {
    Security.addProvider(new BouncyCastleProvider());
    int port = Integer.parseInt(arguments[0]);
    Path folder = Path.of(arguments[1]);
    X509Certificate own = certificate(folder.resolve("server.der"));
    var endpoint =
        EndpointConfig.newBuilder()
            .setBindAddress("127.0.0.1")
            .setBindPort(port)
            .setHostname("127.0.0.1")
            .setPath("/peer")
            .setCertificate(own)
            .setSecurityPolicy(SecurityPolicy.Basic256Sha256)
            .setSecurityMode(MessageSecurityMode.SignAndEncrypt)
            .addTokenPolicies(OpcUaServerConfig.USER_TOKEN_POLICY_USERNAME)
            .build();
    var config =
        OpcUaServerConfig.builder()
            .setApplicationUri("urn:wearsight:test:peer")
            .setProductUri("urn:wearsight:test:peer")
            .setApplicationName(LocalizedText.english("peer"))
            .setEndpoints(Set.of(endpoint))
            .setCertificateManager(certificates(folder, own))
            .setLimits(new Limits())
            .setIdentityValidator(
                new UsernameIdentityValidator(
                    c -> c.getUsername().equals("gateway") && c.getPassword().equals("secret")))
            .build();
    var server = new OpcUaServer(config, p -> new OpcTcpServerTransport(OpcTcpServerTransportConfig.newBuilder().build()));
    var plant = new Plant(server, folder.resolve("measured.csv"));
    plant.startup();
    plant.remember();
    plant.measure();
    server.startup().get();
    Executors.newSingleThreadScheduledExecutor()
        .scheduleAtFixedRate(plant::measure, PERIOD_MS, PERIOD_MS, TimeUnit.MILLISECONDS);
    System.out.println("up");
    while (System.in.read() >= 0) {} // ends with whoever started it
    System.exit(0);
  }
}
