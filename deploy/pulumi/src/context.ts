import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import * as path from "node:path";

import * as k8s from "@pulumi/kubernetes";
import type * as pulumi from "@pulumi/pulumi";
import { parse } from "yaml";

/** The cluster that a stack belongs to. */
export interface ClusterArgs {
  /** The context of the kubeconfig. */
  context: string;
  /** The URL of the API server that this context must lead to. */
  server: string;
  /** The kubeconfig; the default is the first file of `KUBECONFIG`, else `~/.kube/config`. */
  kubeconfig?: string;
}

/**
 * Returns a provider for the cluster that the stack names, and for no other.
 *
 * The current context of the kubeconfig has no effect. Set `pulumi:disable-default-providers:
 * [kubernetes]` in the stack's configuration, so that a resource without this provider is an error
 * instead of an object in whatever cluster is current.
 *
 * @throws {Error} if the kubeconfig has no such context, or if it leads to another API server
 */
export function clusterProvider(
  name: string,
  args: ClusterArgs,
  options?: pulumi.ResourceOptions,
): k8s.Provider {
  const kubeconfig = args.kubeconfig ?? defaultKubeconfig();
  checkContext(readFileSync(kubeconfig, "utf8"), args);
  return new k8s.Provider(name, { kubeconfig, context: args.context }, options);
}

/**
 * Checks that a context of a kubeconfig leads to the API server that is expected.
 *
 * @throws {Error} which says what leads where, and how to mend it
 */
export function checkContext(
  kubeconfig: string,
  { context, server }: Pick<ClusterArgs, "context" | "server">,
): void {
  const { contexts, clusters } = (parse(kubeconfig) ?? {}) as Kubeconfig;
  const named = contexts?.find(({ name }) => name === context)?.context;
  if (named === undefined) {
    const names = (contexts ?? []).map(({ name }) => name).join(", ");
    throw new Error(
      `the kubeconfig has no context ${context}, but ${names || "none at all"}: ` +
        "set cluster.context of this stack to the context of its cluster",
    );
  }
  const actual = clusters?.find(({ name }) => name === named.cluster)?.cluster?.server;
  if (actual === undefined || normalized(actual) !== normalized(server)) {
    throw new Error(
      `the context ${context} leads to ${actual ?? "no API server"}, and this stack belongs to ` +
        `${server}: choose the kubeconfig of that cluster, or the stack of this one`,
    );
  }
}

interface Kubeconfig {
  contexts?: { name: string; context?: { cluster?: string } }[];
  clusters?: { name: string; cluster?: { server?: string } }[];
}

/** A URL without what has no meaning: the case of its host, a default port, a last slash. */
function normalized(url: string): string {
  return URL.canParse(url) ? new URL(url).href.replace(/\/$/, "") : url;
}

function defaultKubeconfig(): string {
  const [first] = (process.env["KUBECONFIG"] ?? "").split(path.delimiter);
  return first || path.join(homedir(), ".kube", "config");
}
