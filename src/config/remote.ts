/** What berth.yaml says of a model that is computed elsewhere (`engine: remote`). */
import type { Micros } from '../core/ids.ts';
import { duration, text } from './kinds.ts';
import type { Kind } from './kinds.ts';
import { mapping } from './tenants.ts';

export interface RemoteConfig {
  /** What the addresses of its endpoints begin with: `https://inference.example/v1`. */
  readonly url: string;
  /** Its name there; null: its name here. */
  readonly model: string | null;
  /** The variable or file that holds the key; both null: none is sent. */
  readonly keyEnv: string | null;
  readonly keyFile: string | null;
  /** How long it may say nothing; null: the usual time. */
  readonly timeout: Micros | null;
}

const VARIABLE = /^[A-Za-z_]\w*$/;

/** Keys in an address would be shown and logged with it. */
export function isBaseUrl(value: string): boolean {
  try {
    const { protocol, username, password, search, hash } = new URL(value);
    return /^https?:$/.test(protocol) && username + password + search + hash === '';
  } catch {
    return false;
  }
}

const fields = mapping<RemoteConfig>(
  'a mapping of url (an http or https address without a key in it), model, keyEnv (a variable’s name) or keyFile, and timeout',
  {
    url: text('an address'),
    model: text('a name'),
    keyEnv: text('the name of a variable'),
    keyFile: text('a file'),
    timeout: duration('finite'),
  },
  { url: '', model: null, keyEnv: null, keyFile: null, timeout: null },
);

export const remote: Kind<RemoteConfig> = {
  ...fields,
  read(value, origin) {
    const read = fields.read(value, origin);
    if (read === undefined || !isBaseUrl(read.url)) return undefined;
    if (read.keyEnv !== null && (!VARIABLE.test(read.keyEnv) || read.keyFile !== null)) return undefined;
    return read;
  },
};
