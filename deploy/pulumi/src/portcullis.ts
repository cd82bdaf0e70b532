import * as path from "node:path";

import * as k8s from "@pulumi/kubernetes";
import * as pulumi from "@pulumi/pulumi";

import type { Arguments } from "./inputs";
import type { ChartValues } from "./values";

type ChartExposure = NonNullable<ChartValues["exposure"]>;

/** How clients reach the gateway: the values below `exposure` of the chart. */
export interface ExposureArgs extends Arguments<Omit<ChartExposure, "type">> {
  /** By what; the default is `LoadBalancer`. It is no output, because resources depend on it. */
  type?: NonNullable<ChartExposure["type"]>;
}

/** What a gateway is installed with: the values of the chart, and where. */
export interface PortcullisArgs extends Arguments<Omit<ChartValues, "exposure">> {
  /** How clients reach the gateway. */
  exposure?: ExposureArgs;
  /** The Namespace of the gateway, which the component creates. The default is `portcullis`. */
  namespace?: string;
  /**
   * The folder of the chart, instead of the one in this package.
   */
  chart?: string;
}

/**
 * A gateway in a Namespace of its own, installed from the Helm chart.
 *
 * Each object of the chart is a resource of the stack, so a preview shows which ones change. The
 * chart's schema checks the values before anything is applied.
 */
export class Portcullis extends pulumi.ComponentResource {
  /** The name of the gateway's Namespace. */
  public readonly namespace: pulumi.Output<string>;
  /** The name of the gateway's ServiceAccount in it, which is also that of its Service. */
  public readonly serviceAccount: pulumi.Output<string>;
  /** The zone. */
  public readonly zone: pulumi.Output<string>;
  /**
   * The addresses of the load balancer, IP addresses or names. It is empty where clients reach the
   * gateway through nodes, and while the address is pending.
   */
  public readonly addresses: pulumi.Output<string[]>;

  public constructor(
    name: string,
    args: PortcullisArgs,
    options?: pulumi.ComponentResourceOptions,
  ) {
    super("portcullis:index:Portcullis", name, {}, options);
    const { namespace = "portcullis", chart = bundledChart(), ...values } = args;
    const parent = { parent: this };
    const type = values.exposure?.type ?? "LoadBalancer";
    const own = new k8s.core.v1.Namespace(
      `${name}-namespace`,
      { metadata: { name: namespace, labels: podSecurity(type) } },
      parent,
    );
    const release = new k8s.helm.v4.Chart(
      name,
      { name: RELEASE, chart, namespace: own.metadata.name, values },
      parent,
    );
    this.namespace = own.metadata.name;
    this.serviceAccount = pulumi.output(RELEASE);
    this.zone = pulumi.output(values.zone);
    this.addresses =
      type === "LoadBalancer"
        ? balancerAddresses(name, this.namespace, release)
        : pulumi.output<string[]>([]);
    this.registerOutputs({
      namespace: this.namespace,
      serviceAccount: this.serviceAccount,
      zone: this.zone,
      addresses: this.addresses,
    });
  }
}

/** Names the objects of the chart, which are alone in their Namespace. */
const RELEASE = "portcullis";

/** Pods have no privileges; but ports of nodes are forbidden below the level `privileged`. */
function podSecurity(type: ExposureArgs["type"]): Record<string, string> {
  const level = type === "HostPort" ? "privileged" : "restricted";
  return { "pod-security.kubernetes.io/enforce": level };
}

/** Reads the addresses that the cloud has written into the status of the gateway's Service. */
function balancerAddresses(
  name: string,
  namespace: pulumi.Output<string>,
  release: k8s.helm.v4.Chart,
): pulumi.Output<string[]> {
  const id = pulumi.interpolate`${namespace}/${RELEASE}`;
  const options = { parent: release, dependsOn: release };
  const service = k8s.core.v1.Service.get(`${name}-service`, id, options);
  return service.status.apply((status) => {
    const ingress = (status as Partial<typeof status> | undefined)?.loadBalancer?.ingress ?? [];
    const addresses = ingress.map(({ ip, hostname }) => ip || hostname);
    return addresses.filter((address) => address !== "");
  });
}

/** The chart in this package. The compiled module is in `dist/src`. */
function bundledChart(): string {
  return path.join(__dirname, "..", "..", "chart");
}
