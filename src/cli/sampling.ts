/** Options of `run` and `chat` → fields of a request. */
import { parseDuration, showDuration } from '../config/kinds.ts';
import { BerthError } from '../errors.ts';
import type { NodeOptions } from './client.ts';

export interface SamplingOptions extends NodeOptions {
  readonly system?: string;
  readonly maxTokens?: string;
  readonly temperature?: string;
  readonly topP?: string;
  readonly seed?: string;
  readonly keepAlive?: string;
  readonly raw?: boolean;
  readonly verbose?: boolean;
}

/** Fields of `POST /v1/chat/completions` and `/v1/completions`. */
export type SamplingFields = Record<string, string | number>;

type Field = readonly [field: string, least: number, most: number, whole: boolean];

const FIELDS: Readonly<Record<string, Field>> = {
  maxTokens: ['max_tokens', 1, 16_777_216, true],
  temperature: ['temperature', 0, 2, false],
  topP: ['top_p', 0, 1, false],
  seed: ['seed', 0, 2 ** 32 - 1, true],
};

/** The names that `/set` takes. */
export const SETTABLE: readonly string[] = Object.keys(FIELDS);

/** Throws `invalid_request` naming `name`, what was expected, and what came. */
export function readField(name: string, text: string): SamplingFields {
  const field = FIELDS[name];
  if (field === undefined) throw new BerthError('invalid_request', `${name}: expected one of ${SETTABLE.join(', ')}`);
  const [key, least, most, whole] = field;
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (!(value >= least && value <= most) || (whole && !Number.isSafeInteger(value))) {
    throw new BerthError(
      'invalid_request',
      `${name}: expected a ${whole ? 'whole ' : ''}number from ${least} to ${most}, received ${text}`,
    );
  }
  return { [key]: value };
}

/** Of a person's prompt, where nothing else is said: small models ramble at the API's own 1. */
const USUAL: SamplingFields = { temperature: 0.7, top_p: 0.9 };

export function samplingFields(options: SamplingOptions): SamplingFields {
  const fields: SamplingFields = { ...USUAL };
  for (const name of SETTABLE) {
    const text = options[name as 'maxTokens'];
    if (text !== undefined) Object.assign(fields, readField(name, text));
  }
  if (options.keepAlive !== undefined) {
    const micros = parseDuration(options.keepAlive);
    if (micros === undefined) {
      throw new BerthError(
        'invalid_request',
        `keepAlive: expected a duration such as 5m, 0 or -1, received ${options.keepAlive}`,
      );
    }
    fields['keep_alive'] = micros < 0 ? -1 : micros === 0 ? 0 : showDuration(micros);
  }
  return fields;
}
