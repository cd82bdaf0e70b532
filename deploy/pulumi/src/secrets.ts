import * as pulumi from "@pulumi/pulumi";

/**
 * Returns secrets of the stack's configuration, by name.
 *
 * They are encrypted in the stack's file and in its state.
 *
 * @param config the configuration, such as `new pulumi.Config("shop")`
 * @param names the names of environment variables, such as `DATABASE_URL`
 * @throws {Error} which names every one that is missing, and the command that sets it
 */
export function requiredSecrets(
  config: pulumi.Config,
  names: readonly string[],
): Record<string, pulumi.Output<string>> {
  const values = names.map((name) => [name, config.getSecret(name)] as const);
  const missing = values.flatMap(([name, value]) => (value === undefined ? [name] : []));
  if (missing.length > 0) {
    const commands = missing.map((name) => `  pulumi config set --secret ${config.name}:${name}`);
    throw new Error(
      `the stack ${pulumi.getStack()} lacks ${missing.join(", ")}; set each:\n${commands.join("\n")}`,
    );
  }
  return Object.fromEntries(names.map((name) => [name, config.requireSecret(name)]));
}
