/** What comes from a runner is checked before it is believed: the process may be confused, and the node must not be. */
import { ERRORS } from '../../errors.ts';
import type { EngineEvent, KvEvent } from '../engine.ts';
import type { FromRunner, WireEvent } from './protocol.ts';

type Fields = Readonly<Record<string, unknown>>;
type Check = (fields: Fields) => boolean;

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null;
const isText = (value: unknown): value is string => typeof value === 'string';
const isCount = (value: unknown): value is number => typeof value === 'number' && value >= 0;
const isListOf = (value: unknown, item: (value: unknown) => boolean): boolean =>
  Array.isArray(value) && value.every(item);
const isCoded = (fields: Fields): boolean =>
  isText(fields['code']) && fields['code'] in ERRORS && isText(fields['message']);
const isUsage = (value: unknown): boolean =>
  isFields(value) &&
  ['promptTokens', 'cachedTokens', 'outputTokens', 'prefillMicros', 'decodeMicros'].every((key) => isCount(value[key]));

const EVENTS: Readonly<Record<WireEvent['type'], Check>> = {
  accepted: ({ promptTokens, cachedTokens, restored, restoreMicros }) =>
    [promptTokens, cachedTokens, restoreMicros ?? 0].every(isCount) &&
    [undefined, 'yes', 'not-needed', 'refused'].some((one) => one === restored),
  tokens: (event) => isText(event['text']) && isListOf(event['tokenIds'], isCount),
  toolCall: ({ call, index }) => isCount(index) && isFields(call) && isText(call['name']) && isText(call['arguments']),
  finished: (event) => isText(event['reason']) && isUsage(event['usage']),
  embedded: (event) => isListOf(event['vectorsBase64'], isText) && isUsage(event['usage']),
  failed: isCoded,
};

const KV_EVENTS: Readonly<Record<KvEvent['type'], Check>> = {
  kept: ({ entryId, tokens, bytes }) => isText(entryId) && [tokens, bytes].every(isCount),
  saved: ({ entryId, bytes, micros }) => isText(entryId) && [bytes, micros].every(isCount),
  dropped: ({ entryId, why }) => isText(entryId) && ['continued', 'needless', 'failed'].some((one) => one === why),
};

const isItem = (item: unknown): boolean =>
  Array.isArray(item) && isText(item[0]) && isFields(item[1]) && passes(EVENTS, item[1]);

const MESSAGES: Readonly<Record<FromRunner['type'], Check>> = {
  started: (message) => isText(message['engineVersion']),
  loaded: ({ from, micros, mappedWeightBytes, growthBytes }) =>
    (from === 'cold' || from === 'asleep') && [micros, mappedWeightBytes, growthBytes].every(isCount),
  grew: (message) => isCount(message['growthBytes']),
  loadFailed: isCoded,
  asleep: (message) => isCount(message['micros']),
  sliceEnded: ({ report }) =>
    isFields(report) &&
    ['sliceId', 'lanes', 'steps', 'prefillTokens', 'wallMicros', 'computeMicros', 'pending'].every((key) =>
      isCount(report[key]),
    ) &&
    ['time', 'idle', 'told'].some((ended) => ended === report['ended']) &&
    isFields(report['decodeTokens']) &&
    isFields(report['requestMicros']) &&
    Object.values(report['requestMicros']).every(isCount),
  events: (message) => isListOf(message['items'], isItem),
  kv: ({ event }) => isFields(event) && passes(KV_EVENTS, event),
  fatal: isCoded,
};

function passes(checks: Readonly<Record<string, Check>>, fields: Fields): boolean {
  const { type } = fields;
  return isText(type) && Object.hasOwn(checks, type) && checks[type]?.(fields) === true;
}

export const isFromRunner = (message: unknown): message is FromRunner => isFields(message) && passes(MESSAGES, message);

/** An event as the node's side knows it. */
export function fromWire(event: WireEvent): EngineEvent {
  if (event.type !== 'embedded') return event;
  const { vectorsBase64, ...rest } = event;
  return { ...rest, vectors: vectorsBase64.map(vectorOf) };
}

/** Little-endian float32. */
function vectorOf(base64: string): Float32Array {
  const bytes = Buffer.from(base64, 'base64');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from({ length: Math.floor(bytes.byteLength / 4) }, (_, i) => view.getFloat32(4 * i, true));
}
