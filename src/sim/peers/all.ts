/** Every peer by its name, as the command line and the benchmarks call it. */
import { BerthError } from '../../errors.ts';
import type { Column } from '../columns.ts';
import { aegaeon } from './aegaeon.ts';
import type { Peer, PeerSetting } from './gpus.ts';
import { serverless } from './serverless.ts';
import { simple } from './simple.ts';

export const PEERS = [
  'aegaeon',
  'aegaeon-2s',
  'aegaeon-1s',
  'serverless',
  'serverless+',
  'serverless+kv',
  'lru-by-count',
  'static',
  'fcfs',
] as const;
export type PeerName = (typeof PEERS)[number];

export const isPeer = (name: string): name is PeerName => (PEERS as readonly string[]).includes(name);

/** Of the GPUs, so many only prefill: as 6 of 16 in the artifact. */
const PREFILL_SHARE = 6 / 16;

/** The peer for so many GPUs and these models. */
export function peer(name: PeerName, gpus: number, models: readonly string[]): Peer {
  const sliced = (seconds: number): Peer => {
    if (gpus < 2)
      throw new BerthError('invalid_request', `${name} needs at least 2 GPUs: one that prefills and one that decodes`);
    return aegaeon({
      prefillGpus: Math.min(gpus - 1, Math.max(1, Math.round(gpus * PREFILL_SHARE))),
      sliceMicros: seconds * 1e6,
    });
  };
  switch (name) {
    case 'aegaeon':
      return sliced(4);
    case 'aegaeon-2s':
      return sliced(2);
    case 'aegaeon-1s':
      return sliced(1);
    case 'serverless':
      return serverless({ order: 'fcfs', keepsKv: false });
    case 'serverless+':
      return serverless({ order: 'srtf', keepsKv: false });
    case 'serverless+kv':
      return serverless({ order: 'srtf', keepsKv: true });
    case 'lru-by-count':
    case 'static':
    case 'fcfs':
      return simple(name, models);
    default:
      return name satisfies never;
  }
}

/** Outside of `compat` Aegaeon may load ahead, as its real system does: into memory that it then shares. */
export const settingFor = (name: PeerName, column: Column, setting: PeerSetting): PeerSetting =>
  name.startsWith('aegaeon') && column !== 'compat' ? { ...setting, prefetch: 'charged' } : setting;
