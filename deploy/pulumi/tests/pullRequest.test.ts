import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { test } from "node:test";

const SCRIPT = path.join(__dirname, "..", "..", "scripts", "pull-request");

interface Run {
  status: number | null;
  /** The calls of `pulumi` and `gh`, one a line. */
  calls: string[];
  /** The text of the comment that was posted. */
  comment: string;
  output: string;
}

/** Runs the script with stand-ins for `pulumi` and `gh`, which record how they are called. */
function run(args: string[], { stacks = "[]", comments = "[]", preview = "" } = {}): Run {
  const folder = mkdtempSync(path.join(tmpdir(), "pull-request-"));
  const stand = (name: string, script: string): void => {
    writeFileSync(path.join(folder, name), `#!/bin/bash\n${script}`);
    chmodSync(path.join(folder, name), 0o755);
  };
  const record = `printf '%s\\n' "$(basename "$0") $*" >> ${folder}/calls\n`;
  stand(
    "pulumi",
    `${record}case "$1 $2" in
      "stack ls") echo '${stacks}' ;;
      preview*) cat ${folder}/preview; [ ! -s ${folder}/preview ] || exit 255 ;;
    esac\n`,
  );
  stand(
    "gh",
    `${record}for last; do true; done
    case "$*" in
      *body=@*) cp "\${last#body=@}" ${folder}/comment ;;
      *) echo '${comments}' ;;
    esac\n`,
  );
  writeFileSync(path.join(folder, "preview"), preview);
  writeFileSync(path.join(folder, "Pulumi.yaml"), "name: shop\nruntime: nodejs\n");
  const env = {
    PATH: `${folder}:${process.env["PATH"] ?? ""}`,
    GITHUB_REPOSITORY: "example/shop",
  };
  const { status, stdout, stderr } = spawnSync(SCRIPT, args, { cwd: folder, env, encoding: "utf8" });
  const read = (name: string): string => {
    const file = path.join(folder, name);
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  };
  const calls = read("calls").trim().split("\n");
  return { status, calls, comment: read("comment"), output: stdout + stderr };
}

const STACKS = '[{"name": "dev"}, {"name": "pr-7"}]';

/** Every run writes the stack's file, which is in no commit. */
const CONFIGURE = [
  "pulumi config cp --stack dev --dest pr-7",
  "pulumi config set shop:environment pr-7 --stack pr-7",
  "pulumi config set shop:sharesGateway true --stack pr-7",
];

test("the first preview creates a stack with the configuration of dev, and a comment", () => {
  const { status, calls, comment, output } = run(["preview", "7"]);
  assert.equal(status, 0, output);
  assert.deepEqual(calls.slice(0, 6), [
    "pulumi stack ls --json",
    "pulumi stack init pr-7",
    ...CONFIGURE,
    "pulumi preview --stack pr-7 --diff --non-interactive --color never",
  ]);
  assert.match(calls.at(-1) ?? "", /^gh api --method POST repos\/example\/shop\/issues\/7\/comments/);
  assert.match(comment, /Preview of `pr-7`\*\*\n/);
});

test("a later preview replaces the comment, and one that fails says so and fails", () => {
  const comments = '[{"id": 1, "body": "x"}, {"id": 2, "body": "<!-- portcullis: preview -->"}]';
  const preview = "error: ```` in the text\n";
  const { status, calls, comment } = run(["preview", "7"], { stacks: STACKS, comments, preview });
  assert.equal(status, 255);
  assert.deepEqual(calls.slice(1, 5), ["pulumi stack select pr-7", ...CONFIGURE]);
  assert.match(calls.at(-1) ?? "", /^gh api --method PATCH repos\/example\/shop\/issues\/comments\/2 /);
  assert.match(comment, /: failed\n\n`````\nerror/, "its fence is longer than the one in the text");
});

test("the stack goes with the pull request", () => {
  const { status, calls } = run(["destroy", "7"], { stacks: STACKS });
  assert.equal(status, 0);
  assert.deepEqual(calls.slice(2), [
    "pulumi stack select pr-7",
    ...CONFIGURE,
    "pulumi destroy --stack pr-7 --yes --non-interactive --skip-preview",
    "pulumi stack rm pr-7 --yes",
  ]);
  assert.deepEqual(run(["destroy", "8"], { stacks: STACKS }).calls, ["pulumi stack ls --json"]);
});

test("nothing runs for what is no number", () => {
  for (const args of [["up", "7; id"], ["up", "-7"], ["up"], ["explode", "7"]]) {
    const { status, calls } = run(args);
    assert.equal(status, 2, args.join(" "));
    assert.deepEqual(calls, [""], args.join(" "));
  }
});
