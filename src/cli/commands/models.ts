/** `berth ls`, `rm` and `show`: what models there are. `ls` and `rm` work without a running node, on the folder itself. */
import type { BerthConfig } from '../../config.ts';
import { catalogueEntries } from '../../config.ts';
import { BerthError } from '../../errors.ts';
import type { ModelResponse, ModelsResponse, RemoveResponse } from '../../gateway/admin-types.ts';
import type { Catalogue } from '../../models/catalogue.ts';
import { adminClient } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import { nodeOrFolder } from '../folder.ts';
import type { FolderOptions } from '../folder.ts';
import type { Io } from '../io.ts';
import { humanAgo, humanBytes, humanCount, json, shortDigest, table, truncate } from '../output.ts';
import { until } from './ps.ts';

export interface LsOptions extends FolderOptions {
  readonly quiet?: boolean;
  readonly trunc?: boolean;
}

/** What both a node and the folder know of a model. `--json` prints it. */
interface Listed {
  readonly id: string;
  readonly aliases: readonly string[];
  readonly source: string;
  readonly fileBytes: number;
  /** Unix seconds of the file. */
  readonly modifiedSeconds: number;
  readonly digest: string | null;
  readonly problem: string | null;
}

const LONGEST_NAME = 40;

export async function ls(io: Io, options: LsOptions): Promise<void> {
  const models = await nodeOrFolder(
    io,
    options,
    async () => {
      const answer = (await adminClient(options, io.env).json('/api/admin/models')) as ModelsResponse;
      return answer.models.map(
        ({ id, aliases, source, fileBytes, createdSeconds, digest, failure }): Listed => ({
          id,
          aliases,
          source,
          fileBytes,
          modifiedSeconds: createdSeconds,
          digest,
          problem: failure?.message ?? null,
        }),
      );
    },
    async (config) => listFolder(await catalogueOf(config)),
  );
  if (options.json === true) return io.out(json(models));
  if (options.quiet === true) return io.out(models.map(({ id }) => `${id}\n`).join(''));
  const whole = options.trunc === false;
  const now = Date.now() / 1_000;
  const rows = models.map((model) => [
    whole ? model.id : truncate(model.id, LONGEST_NAME),
    whole ? (model.digest ?? '-') : shortDigest(model.digest),
    model.fileBytes === 0 ? '-' : humanBytes(model.fileBytes),
    model.modifiedSeconds === 0 ? '-' : humanAgo(Math.max(0, now - model.modifiedSeconds) * 1e6),
  ]);
  io.out(table({ headers: ['NAME', 'ID', 'SIZE', 'MODIFIED'], rows, styled: io.stdoutIsTty }));
  for (const { id, problem } of models) if (problem !== null) io.err(`warning: ${id}: ${problem}\n`);
}

async function catalogueOf(config: BerthConfig): Promise<Catalogue> {
  const { createCatalogue } = await import('../../models/catalogue.ts');
  const catalogue = createCatalogue({ modelsDir: config.modelsDir, models: catalogueEntries(config) });
  await catalogue.refresh();
  return catalogue;
}

const listFolder = (catalogue: Catalogue): Listed[] =>
  catalogue.list().map(({ id, aliases, source, fileBytes, modifiedSeconds, sha256, problem }) => ({
    id,
    aliases,
    source,
    fileBytes,
    modifiedSeconds,
    digest: sha256,
    problem: problem?.message ?? null,
  }));

export async function rm(io: Io, names: readonly string[], options: FolderOptions): Promise<void> {
  const removed: string[] = [];
  for (const name of names) {
    const id = await nodeOrFolder(
      io,
      options,
      async () => {
        const path = `/api/admin/models/${encodeURIComponent(name)}`;
        return ((await adminClient(options, io.env).json(path, { method: 'DELETE' })) as RemoveResponse).id;
      },
      async (config): Promise<string> => {
        const catalogue = await catalogueOf(config);
        const { id } = catalogue.find(name);
        await catalogue.remove(name);
        return id;
      },
    );
    removed.push(id);
    if (options.json !== true) io.out(`${id} is removed.\n`);
  }
  if (options.json === true) io.out(json({ removed }));
}

export async function show(io: Io, name: string, options: NodeOptions): Promise<void> {
  const path = `/api/admin/models/${encodeURIComponent(name)}`;
  const model = (await adminClient(options, io.env).json(path)) as ModelResponse;
  if (model.id === undefined) throw new BerthError('node_unreachable', 'what answers is not a Berth node');
  if (options.json === true) return io.out(json(model));
  const { details, capabilities } = model;
  const can = Object.entries({ embeds: 'embeddings', logprobs: 'logprobs', sleeps: 'sleep', exportsKv: 'KV export' });
  const facts: readonly (readonly [string, string | null])[] = [
    ['Model', model.id],
    ['Aliases', model.aliases.length === 0 ? null : model.aliases.join(', ')],
    ['Source', model.source],
    ['Digest', model.digest],
    ['File', `${humanBytes(model.fileBytes)}, ${details.format}`],
    ['Architecture', details.architecture],
    ['Parameters', details.parameters === null ? null : humanCount(details.parameters)],
    ['Quantization', details.quantization],
    ['Trained for', details.trainedContextTokens === null ? null : `${details.trainedContextTokens} tokens`],
    ['Chat template', details.chatTemplate ? 'yes' : 'no: it continues text'],
    ['Context', `${model.contextTokens} tokens`],
    ['Parallel', `${model.parallel} requests`],
    ['Engine', model.engine],
    ['Can', can.flatMap(([key, word]) => (capabilities[key as 'embeds'] ? [word] : [])).join(', ') || null],
    ['State', `${model.state} (${model.tier})${model.pinned ? ', pinned' : ''}`],
    ['Until', model.state === 'unloaded' ? null : until(model)],
    ['Memory', model.tier === 'disk' ? null : humanBytes(model.chargedBytes)],
    ['Requests', `${model.running} running, ${model.waiting} waiting`],
    ['Lanes', model.lanes === 0 ? null : String(model.lanes)],
    ['Failure', model.failure === null ? null : `${model.failure.code}: ${model.failure.message}`],
  ];
  io.out(facts.flatMap(([label, value]) => (value === null ? [] : [`${label.padEnd(14)}  ${value}\n`])).join(''));
}
