// Types of arguments.

import type { Input } from "@pulumi/pulumi";

/** A value of the type `T` in which every part may be an output of another resource. */
export type Inputs<T> = T extends readonly (infer Item)[]
  ? Input<Inputs<Item>[]>
  : T extends object
    ? Input<{ [Key in keyof T]: Inputs<T[Key]> }>
    : Input<T>;

/** The arguments that have the fields of `T`, each of which may be an output. */
export type Arguments<T> = { [Key in keyof T]: Inputs<T[Key]> };
