// A stand-in for the engine: it records the resources that a program declares.

import * as pulumi from "@pulumi/pulumi";
import * as settings from "@pulumi/pulumi/runtime/settings";

/** A resource that was declared. */
export interface Declared {
  type: string;
  name: string;
  /** Its inputs. Secret ones are marked by the engine's signature. */
  inputs: Record<string, unknown>;
}

// The only way to wait for all resources is missing in the package's types.
const { waitForRPCs } = settings as unknown as { waitForRPCs: () => Promise<void> };
const SECRET = "1b47061264138c4ac30d75fd1eb44270";

/** What resources of a type have besides their inputs. */
export const outputs: Record<string, object> = {};

let resources: Declared[] = [];

/** Runs a program in the stack `staging` of the project `shop`, and returns what it declares. */
export async function declared(program: () => unknown): Promise<Declared[]> {
  resources = [];
  program();
  await waitForRPCs();
  return resources;
}

// The engine of a process cannot be replaced while a program runs, so that it is the same for all.
void pulumi.runtime.setMocks(
  {
    newResource({ type, name, inputs }) {
      resources.push({ type, name, inputs: inputs as Record<string, unknown> });
      const state = { ...(inputs as object), ...outputs[type] };
      return { id: `${name}-id`, state };
    },
    call: ({ inputs }) => inputs as Record<string, unknown>,
  },
  "shop",
  "staging",
  false,
);

/** The only declared resource of a type, whose name ends with `suffix`. */
export function only(resources: Declared[], type: string, suffix = ""): Declared {
  const found = resources.filter((one) => one.type === type && one.name.endsWith(suffix));
  const [first] = found;
  if (first === undefined || found.length > 1) {
    throw new Error(`${found.length} resources ${type} of ${JSON.stringify(resources)}`);
  }
  return first;
}

/** Whether an input is stored encrypted. */
export function isSecret(value: unknown): boolean {
  return JSON.stringify(value).includes(SECRET);
}

/** The value of an output. */
export function resolved<T>(output: pulumi.Output<T> | undefined): Promise<T> {
  return new Promise((resolve) => output?.apply(resolve));
}
