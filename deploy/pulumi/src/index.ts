// Components for Portcullis, and for services of its environments.

export { AppService, imageReference } from "./appService";
export type { AppServiceArgs, Migrations, SigningKeysMount } from "./appService";
export type { Access } from "./access";
export type { CertificateArgs } from "./certificate";
export { checkContext, clusterProvider } from "./context";
export type { ClusterArgs } from "./context";
export type { Arguments, Inputs } from "./inputs";
export { KeyRotator } from "./keyRotator";
export type { KeyRotatorArgs } from "./keyRotator";
export { Portcullis } from "./portcullis";
export type { ExposureArgs, PortcullisArgs } from "./portcullis";
export { requiredSecrets } from "./secrets";
export type { ChartValues } from "./values";
