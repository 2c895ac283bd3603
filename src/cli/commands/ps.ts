/** `berth ps`: what is on the device. The first columns are Ollama's. */
import type { KvResponse, ModelsResponse, ModelView } from '../../gateway/admin-types.ts';
import { adminClient } from '../client.ts';
import type { NodeOptions } from '../client.ts';
import type { Io } from '../io.ts';
import { humanBytes, humanSpan, json, shortDigest, table, truncate } from '../output.ts';

export interface PsOptions extends NodeOptions {
  readonly all?: boolean;
  readonly quiet?: boolean;
  readonly trunc?: boolean;
  readonly kv?: boolean;
}

const HEADERS = ['NAME', 'ID', 'SIZE', 'PROCESSOR', 'CONTEXT', 'UNTIL', 'STATE', 'TIER', 'RUN', 'WAIT'];
const LONGEST_NAME = 40;

export async function ps(io: Io, options: PsOptions): Promise<void> {
  if (options.kv === true) return psKv(io, options);
  const { models } = (await adminClient(options, io.env).json('/api/admin/models')) as ModelsResponse;
  const shown = options.all === true ? models : models.filter(isInPlay);
  if (options.json === true) return io.out(json(shown));
  if (options.quiet === true) return io.out(shown.map((model) => `${model.id}\n`).join(''));
  const whole = options.trunc === false;
  const hasDevices = models.some(({ device }) => device !== undefined);
  const rows = shown.map((model) => [
    whole ? model.id : truncate(model.id, LONGEST_NAME),
    whole ? (model.digest ?? '-') : shortDigest(model.digest),
    model.tier === 'disk' ? '-' : humanBytes(model.chargedBytes),
    processor(model),
    String(model.contextTokens),
    until(model),
    model.state,
    model.tier,
    String(model.running),
    String(model.waiting),
    ...(hasDevices ? [model.device ?? '-'] : []),
  ]);
  const headers = hasDevices ? [...HEADERS, 'DEVICE'] : HEADERS;
  io.out(table({ headers, rows, styled: io.stdoutIsTty, right: ['RUN', 'WAIT'] }));
}

const KV_HEADERS = ['ENTRY', 'TENANT', 'MODEL', 'TIER', 'TOKENS', 'SIZE', 'USED', 'AGE'];
const ENTRY_LETTERS = 12;

/** Conversations by where their KV is, and what each tier holds. */
async function psKv(io: Io, options: PsOptions): Promise<void> {
  const { kv } = (await adminClient(options, io.env).json('/api/admin/kv')) as KvResponse;
  if (options.json === true) return io.out(json(kv));
  if (kv === null) return io.out('This node keeps no KV: kv.hostMemory and kv.disk are 0.\n');
  const whole = options.trunc === false;
  const rows = kv.entries.map((entry) => [
    whole ? entry.entryId : entry.entryId.slice(0, ENTRY_LETTERS),
    entry.tenantId,
    whole ? entry.modelId : truncate(entry.modelId, LONGEST_NAME),
    entry.tier,
    String(entry.tokens),
    humanBytes(entry.bytes),
    String(entry.uses),
    `${humanSpan(entry.ageMicros)} ago`,
  ]);
  if (options.quiet === true) return io.out(rows.map(([id]) => `${id}\n`).join(''));
  io.out(table({ headers: KV_HEADERS, rows, styled: io.stdoutIsTty, right: ['TOKENS', 'USED'] }));
  const tiers = Object.entries(kv.stats.tiers).map(([tier, { entries, bytes, budgetBytes }]) => {
    const of = tier === 'device' ? '' : ` of ${humanBytes(budgetBytes)}`;
    return `${tier} ${entries} (${humanBytes(bytes)}${of})`;
  });
  io.out(`${tiers.join(' · ')}\n`);
}

/** On the device, on the way, or wanted. */
const isInPlay = (model: ModelView): boolean => model.state !== 'unloaded' || model.running > 0 || model.waiting > 0;

/** Only CPU engines so far; a model that isn't computing memory is nowhere. */
const processor = (model: ModelView): string => (model.tier === 'device' ? '100% CPU' : '-');

export function until(model: Pick<ModelView, 'state' | 'pinned' | 'expiresInMicros' | 'failure'>): string {
  switch (model.state) {
    case 'loading':
      return 'Loading...';
    case 'parking':
      return 'Stopping...';
    case 'failed':
      return `Failed: ${model.failure?.code ?? 'unknown'}`;
    case 'unloaded':
      return '-';
    default:
      // Asleep it holds next to nothing, and leaves when its bytes are wanted.
      if (model.state === 'sleeping' && !model.pinned && model.expiresInMicros === null) return '-';
      if (model.pinned || model.expiresInMicros === null) return 'Forever';
      return `${humanSpan(Math.max(0, model.expiresInMicros))} from now`;
  }
}
