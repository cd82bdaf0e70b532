import * as pulumi from "@pulumi/pulumi";

/** Who may access a service. It narrows what its environment allows, and never widens it. */
export interface Access {
  /** The required credentials; the default is that of the environment, else `app+user`. */
  require?: pulumi.Input<"none" | "app" | "user" | "app+user">;
  /** The applications that may access it. */
  apps?: pulumi.Input<string>[];
  /** The users that may access it. */
  users?: pulumi.Input<string>[];
  /** The groups whose users may access it. */
  groups?: pulumi.Input<string>[];
  /** Additional hostnames. */
  hostnames?: pulumi.Input<string>[];
}

/** Returns the annotations by which a Service says it. */
export function accessAnnotations(access: Access = {}): Record<string, pulumi.Input<string>> {
  const lists = {
    "allow-apps": access.apps,
    "allow-users": access.users,
    "allow-groups": access.groups,
    hostnames: access.hostnames,
  };
  const annotations: Record<string, pulumi.Input<string>> = {};
  if (access.require !== undefined) annotations["portcullis.dev/require"] = access.require;
  for (const [key, list] of Object.entries(lists)) {
    // An empty list allows nobody, and is not the same as no list.
    if (list === undefined) continue;
    annotations[`portcullis.dev/${key}`] = pulumi.all(list).apply((items) => items.join(","));
  }
  return annotations;
}
