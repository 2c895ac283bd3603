/** docs/configuration.md, made from the table of options. `vitest run --project unit src/config/reference.test.ts -u` writes it. */
import { DEVICE_OPTIONS } from './devices.ts';
import { MODEL_OPTIONS } from './model-options.ts';
import { OPTIONS } from './options.ts';
import type { Option } from './options.ts';
import { TENANT_OPTIONS } from './tenants.ts';

const INTRO = `# Configuration

<!-- Generated from src/config/options.ts; a test holds them equal. -->

A node needs no configuration: a folder of GGUF files is enough, and everything else follows from the machine. What you want
otherwise goes into \`berth.yaml\`; [berth.example.yaml](../berth.example.yaml) is one to start from.

**Which file.** \`--config FILE\`, else \`BERTH_CONFIG\`, else \`berth.yaml\` in the working folder, else \`berth.yaml\` in \`BERTH_HOME\`.
\`--no-config\` reads none. \`BERTH_HOME\` is where models and state lie: by default \`.berth\` in a clone of the repository, so that a
trial leaves nothing behind, and \`~/.berth\` where Berth was installed as a package.

**Which value holds**, strongest first: a flag of \`berth serve\`, a \`BERTH_…\` variable, \`berth.yaml\`, a variable of a neighbour
(\`OLLAMA_…\`, \`HF_…\`), the default. A neighbour's variable that means nothing here is passed over with a warning; everything else
that is wrong stops the start.

**Errors** are told all at once, each with its line, its field, what was expected, and for an unknown field the likely one:

    berth.yaml:3 device.lanes: expected a whole number from 1 to 4096, received -2
    berth.yaml:6 models.0.contxt: unknown field; did you mean \`context\`?

**Saved changes** are applied while the node runs. Flags and variables still hold. A save with an error changes nothing: the node
logs it, \`GET /api/admin/status\` shows it as \`configError\`, and the old configuration stays in force. Where the node listens
(all of \`http\` but \`apiKeys\`), which devices it has, \`modelsDir\`, \`kv\`, \`limits.bodyBytes\`, \`limits.loadTimeout\` and \`log.level\` change with the next start only.

**Units.** A size is \`6GiB\`, \`512MiB\`, \`1.5G\` (binary), \`8GB\` (decimal) or a number of bytes. A duration is \`250ms\`, \`90s\`, \`5m\`,
\`1h30m\`, \`2d\` or a number of **seconds**, as Ollama's \`keep_alive\`; \`-1\` or \`forever\` is for ever. In variables and flags the items
of a list are separated by commas.
`;

const code = (text: string): string => `\`${text}\``;
const cell = (text: string): string => text.replaceAll('|', '\\|');
const row = (cells: readonly string[]): string => `| ${cells.map(cell).join(' | ')} |`;
const head = (cells: readonly string[]): string => `${row(cells)}\n|${'---|'.repeat(cells.length)}`;

function usual({ kind, default: value, otherwise }: Option<unknown>): string {
  return value === null ? (otherwise ?? 'none') : code(kind.show(value));
}

function section(name: string, paths: readonly (readonly [string, Option<unknown>])[]): string {
  const rows = paths.map(([path, option]) => {
    const names = [
      ...(option.flag === undefined ? [] : [code(option.flag)]),
      ...(option.env === undefined ? [] : [code(option.env)]),
      ...(option.fallbackEnv ?? []).map(code),
    ];
    return row([code(path), option.kind.expected, usual(option), names.join(', '), option.about]);
  });
  const columns = ['field', 'value', 'default', 'flag, variables', 'what it does'];
  return `## ${name}\n\n${[head(columns), ...rows].join('\n')}\n`;
}

const MODELS = `## models

A mapping of names, or a list of mappings with an \`id\`. A model that only lies in \`modelsDir\` needs no entry; an entry under its
name (the file's, without \`.gguf\`, in lower case) changes how it is run.

\`\`\`yaml
models:
  smollm2-135m: # a file in modelsDir
    context: 2048
    aliases: [small]
  other: ./files/other.gguf # short for {source: ./files/other.gguf}
  third:
    source: hf:org/repo:third-Q4_K_M.gguf # pulled into modelsDir when it isn't there
\`\`\`

Ids and aliases share one space of names, whatever their case: a name means one model.
`;

const DEVICES = `## devices

A list, where a node has several devices, instead of \`device\`; [engines](engines.md#several-devices) tells which model is computed on which.
The list itself, with kinds and GPUs, changes with the next start only; \`memory\` and \`lanes\` at once.

\`\`\`yaml
devices:
  - id: gpu0
    gpu: 0
  - id: gpu1
    gpu: 1
    memory: 60GiB
  - id: cpu
    lanes: 8
models:
  qwen3-8b: {engine: vllm, source: ./models/Qwen3-8B, device: gpu1}
\`\`\`
`;

const TENANTS = `## tenants

A mapping of ids to what holds for each; [tenants](tenants.md) tells the whole story. Tenants can be made by \`berth tenants add\` too: one
that is in both is as it stands here, and can be changed here only. \`default\` is the tenant of \`http.apiKeys\`, and of everybody while no
key is needed. Keys of tenants are made by \`berth keys create\`, never written here.

\`\`\`yaml
tenants:
  acme:
    weight: 2
    models: [smol*]
    limits: {requestsPerMinute: 600, tokensPerMinute: 100K, concurrency: 8, queue: 32, budget: 50M/month}
\`\`\`
`;

/** The whole page. */
export function configurationPage(): string {
  const sections = new Map<string, [string, Option<unknown>][]>();
  for (const entry of Object.entries(OPTIONS) as [string, Option<unknown>][]) {
    const name = entry[0].split('.')[0] ?? '';
    sections.set(name, [...(sections.get(name) ?? []), entry]);
  }
  const fields = (options: object): string => {
    const rows = (Object.entries(options) as [string, Option<unknown>][]).map(([name, option]) =>
      row([code(name), option.kind.expected, usual(option), option.about]),
    );
    return [head(['field', 'value', 'default', 'what it does']), ...rows].join('\n');
  };
  return [
    INTRO,
    ...[...sections].map(([name, paths]) => section(name, paths)),
    `${DEVICES}\n${fields(DEVICE_OPTIONS)}\n`,
    `${MODELS}\n${fields(MODEL_OPTIONS)}\n`,
    `${TENANTS}\n${fields(TENANT_OPTIONS)}\n`,
  ].join('\n');
}
