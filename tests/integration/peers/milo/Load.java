import java.nio.file.Path;
import java.security.Security;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Scanner;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.eclipse.milo.opcua.sdk.core.AccessLevel;
import org.eclipse.milo.opcua.sdk.core.Reference;
import org.eclipse.milo.opcua.sdk.server.EndpointConfig;
import org.eclipse.milo.opcua.sdk.server.ManagedNamespaceWithLifecycle;
import org.eclipse.milo.opcua.sdk.server.OpcUaServer;
import org.eclipse.milo.opcua.sdk.server.OpcUaServerConfig;
import org.eclipse.milo.opcua.sdk.server.identity.UsernameIdentityValidator;
import org.eclipse.milo.opcua.sdk.server.items.DataItem;
import org.eclipse.milo.opcua.sdk.server.items.MonitoredItem;
import org.eclipse.milo.opcua.sdk.server.model.variables.BaseAnalogType;
import org.eclipse.milo.opcua.sdk.server.nodes.UaFolderNode;
import org.eclipse.milo.opcua.sdk.server.nodes.UaNode;
import org.eclipse.milo.opcua.sdk.server.nodes.UaVariableNode;
import org.eclipse.milo.opcua.stack.core.NodeIds;
import org.eclipse.milo.opcua.stack.core.security.SecurityPolicy;
import org.eclipse.milo.opcua.stack.core.types.builtin.DataValue;
import org.eclipse.milo.opcua.stack.core.types.builtin.DateTime;
import org.eclipse.milo.opcua.stack.core.types.builtin.LocalizedText;
import org.eclipse.milo.opcua.stack.core.types.builtin.NodeId;
import org.eclipse.milo.opcua.stack.core.types.builtin.StatusCode;
import org.eclipse.milo.opcua.stack.core.types.builtin.Variant;
import org.eclipse.milo.opcua.stack.core.types.enumerated.MessageSecurityMode;
import org.eclipse.milo.opcua.stack.core.types.structured.EUInformation;
import org.eclipse.milo.opcua.stack.transport.server.tcp.OpcTcpServerTransport;
import org.eclipse.milo.opcua.stack.transport.server.tcp.OpcTcpServerTransportConfig;

/**
 * A load behind Eclipse Milo's server: PORT FOLDER, -Dnodes=N, -Dperiod=MS. Every node of Machines/load/Monitoring has the number of the
 * tick as its value. To the line {@code pause} it answers with {@code done} and how many ticks there were; it has no history.
 */
public final class Load {
  static final class Plant extends ManagedNamespaceWithLifecycle {
    final int count;
    final List<UaVariableNode> nodes = new ArrayList<>();
    final Map<NodeId, List<DataItem>> items = new ConcurrentHashMap<>();
    volatile boolean paused;
    long tick;

    Plant(OpcUaServer server, int count) {
      super(server, "urn:wearsight:test:plant");
      this.count = count;
      getLifecycleManager().addStartupTask(this::build);
    }

    void build() {
      UaNode machines = folder("Machines", null);
      machines.addReference(
          new Reference(machines.getNodeId(), NodeIds.Organizes, NodeIds.ObjectsFolder.expanded(), Reference.Direction.INVERSE));
      UaNode monitoring = folder("Monitoring", folder("load", machines));
      for (int i = 0; i < count; i++) {
        String name = "c%04d".formatted(i);
        UaVariableNode node =
            UaVariableNode.builder(getNodeContext())
                .setNodeId(newNodeId("load." + name))
                .setBrowseName(newQualifiedName(name))
                .setDisplayName(LocalizedText.english(name))
                .setDataType(NodeIds.Double)
                .setTypeDefinition(NodeIds.AnalogItemType)
                .setMinimumSamplingInterval(0.0)
                .setAccessLevel(AccessLevel.READ_ONLY)
                .setUserAccessLevel(AccessLevel.READ_ONLY)
                .build();
        getNodeManager().addNode(node);
        node.setProperty(
            BaseAnalogType.ENGINEERING_UNITS,
            new EUInformation("urn:wearsight:test", -1, LocalizedText.english("1"), LocalizedText.NULL_VALUE));
        under(monitoring, node);
        nodes.add(node);
      }
    }

    UaNode folder(String name, UaNode parent) {
      UaNode node = new UaFolderNode(getNodeContext(), newNodeId(name), newQualifiedName(name), LocalizedText.english(name));
      getNodeManager().addNode(node);
      if (parent != null) under(parent, node);
      return node;
    }

    static void under(UaNode parent, UaNode node) {
      parent.addReference(
          new Reference(parent.getNodeId(), NodeIds.HasComponent, node.getNodeId().expanded(), Reference.Direction.FORWARD));
    }

    synchronized void measure() {
      if (paused) return;
      tick++;
      Instant now = Instant.now();
      DateTime time = new DateTime(now.minusNanos(now.getNano() % 1000));
      DataValue value = new DataValue(Variant.ofDouble(tick), StatusCode.GOOD, time, time);
      for (UaVariableNode node : nodes) {
        node.setValue(value);
        for (DataItem item : items.getOrDefault(node.getNodeId(), List.of())) item.setValue(value);
      }
    }

    synchronized long pause() {
      paused = true;
      return tick;
    }

    @Override
    public synchronized void onDataItemsCreated(List<DataItem> created) {
      for (DataItem item : created) {
        NodeId id = item.getReadValueId().getNodeId();
        items.computeIfAbsent(id, ignored -> new CopyOnWriteArrayList<>()).add(item);
        if (getNodeManager().get(id) instanceof UaVariableNode variable) item.setValue(variable.getValue());
      }
    }

    @Override
    public void onDataItemsModified(List<DataItem> modified) {}

    @Override
    public synchronized void onDataItemsDeleted(List<DataItem> deleted) {
      for (DataItem item : deleted) items.getOrDefault(item.getReadValueId().getNodeId(), List.of()).remove(item);
    }

    @Override
    public void onMonitoringModeChanged(List<MonitoredItem> changed) {}
  }

  public static void main(String[] arguments) throws Exception {
    Security.addProvider(new BouncyCastleProvider());
    Path folder = Path.of(arguments[1]);
    var own = Server.certificate(folder.resolve("server.der"));
    var endpoint =
        EndpointConfig.newBuilder()
            .setBindAddress("127.0.0.1")
            .setBindPort(Integer.parseInt(arguments[0]))
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
            .setApplicationName(LocalizedText.english("load"))
            .setEndpoints(Set.of(endpoint))
            .setCertificateManager(Server.certificates(folder, own))
            .setIdentityValidator(
                new UsernameIdentityValidator(
                    c -> c.getUsername().equals("gateway") && c.getPassword().equals("secret")))
            .build();
    var server = new OpcUaServer(config, p -> new OpcTcpServerTransport(OpcTcpServerTransportConfig.newBuilder().build()));
    var plant = new Plant(server, Integer.getInteger("nodes"));
    plant.startup();
    plant.measure();
    server.startup().get();
    long period = Long.getLong("period");
    Executors.newSingleThreadScheduledExecutor().scheduleAtFixedRate(plant::measure, period, period, TimeUnit.MILLISECONDS);
    System.out.println("up");
    var lines = new Scanner(System.in);
    while (lines.hasNextLine()) {
      if (lines.nextLine().equals("pause")) System.out.println("done " + plant.pause());
    }
    System.exit(0);
  }
}
