/**
 * A model as a folder of the Hugging Face kind: `config.json`, tokenizer files, weights. What the servers that load such folders need
 * to be told, and what their memory will be.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Bytes } from '../core/ids.ts';
import { BerthError } from '../errors.ts';
import type { Engine, ModelLaunch } from './engine.ts';

export interface CheckpointFacts {
  /** The first of its `architectures`. */
  readonly architecture: string | null;
  /** Does it generate text, rather than embed? */
  readonly generates: boolean;
  readonly trainedContextTokens: number | null;
  /** Bytes of its weight files; 0: there are none (a server may be told to make some up). */
  readonly weightBytes: Bytes;
  /** Keys and values of one token, two bytes an element; null: it does not say, or does not keep them so. */
  readonly kvBytesPerToken: Bytes | null;
  readonly chatTemplate: boolean;
  readonly modifiedSeconds: number;
  /** Changes when a file is replaced. */
  readonly fingerprint: string;
}

const KV_ELEMENT_BYTES = 2;
const WEIGHTS = /\.(safetensors|bin|pt|pth|gguf)$/i;

/** Rejects with `model_file_missing` or `model_file_invalid`. */
export async function readCheckpoint(folder: string): Promise<CheckpointFacts> {
  const files = await listFiles(folder);
  const config = await readConfig(folder);
  const tokenizer = await readJson(join(folder, 'tokenizer_config.json')).catch(() => null);
  const inner = isObject(config['text_config']) ? config['text_config'] : config;
  const architecture = firstText(config['architectures']);
  const digest = createHash('sha256');
  for (const { name, bytes, modifiedMillis } of files) digest.update(`${name}|${bytes}|${modifiedMillis}\n`);
  return {
    architecture,
    generates: architecture === null || /CausalLM|ConditionalGeneration|LMHead/.test(architecture),
    trainedContextTokens: wholeNumber(inner['max_position_embeddings']),
    weightBytes: files.reduce((sum, { name, bytes }) => sum + (WEIGHTS.test(name) ? bytes : 0), 0),
    kvBytesPerToken: kvBytesPerToken(inner),
    chatTemplate:
      files.some(({ name }) => name === 'chat_template.jinja') ||
      (isObject(tokenizer) && typeof tokenizer['chat_template'] === 'string'),
    modifiedSeconds: Math.trunc(Math.max(0, ...files.map(({ modifiedMillis }) => modifiedMillis)) / 1000),
    fingerprint: digest.digest('hex').slice(0, 32),
  };
}

/** Weights, all of the KV, and what the server holds besides, which is all that stays while it sleeps. Rejects as `readCheckpoint`. */
export async function estimateBytes(launch: ModelLaunch, serverBytes: Bytes): ReturnType<Engine['estimate']> {
  const { weightBytes, kvBytesPerToken: tokenBytes } = await readCheckpoint(launch.path);
  const kv = (tokenBytes ?? 0) * launch.kvTokens;
  return { loadedBytes: Math.ceil(serverBytes + weightBytes + kv + 1), asleepBytes: serverBytes };
}

export interface CheckpointTemplate {
  /** null: it has none. */
  readonly chatTemplate: string | null;
  readonly bosText: string;
  readonly eosText: string;
}

/** The chat template, where it lies now or where it lay before `transformers` 4.52. Rejects as `readCheckpoint`. */
export async function readTemplate(folder: string): Promise<CheckpointTemplate> {
  const own = await readFile(join(folder, 'chat_template.jinja'), 'utf8').catch(() => null);
  const read = await readJson(join(folder, 'tokenizer_config.json')).catch(() => null);
  const config = isObject(read) ? read : {};
  const old = config['chat_template'];
  return {
    chatTemplate: own ?? (typeof old === 'string' ? old : null),
    bosText: tokenText(config['bos_token']),
    eosText: tokenText(config['eos_token']),
  };
}

/** A text, or the same with how it is matched. */
function tokenText(token: unknown): string {
  if (typeof token === 'string') return token;
  return isObject(token) && typeof token['content'] === 'string' ? token['content'] : '';
}

interface FoundFile {
  readonly name: string;
  readonly bytes: Bytes;
  readonly modifiedMillis: number;
}

async function listFiles(folder: string): Promise<readonly FoundFile[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOTDIR')
      throw new BerthError('model_file_invalid', `${folder} is a file: this engine loads a folder with a config.json.`);
    throw new BerthError('model_file_missing', `There is no folder ${folder}.`, { cause: error });
  });
  const files: FoundFile[] = [];
  for (const name of names.toSorted()) {
    const found = await stat(join(folder, name)).catch(() => null);
    if (found?.isFile() === true) files.push({ name, bytes: found.size, modifiedMillis: Math.trunc(found.mtimeMs) });
  }
  return files;
}

async function readConfig(folder: string): Promise<Record<string, unknown>> {
  const path = join(folder, 'config.json');
  const config = await readJson(path).catch((error: NodeJS.ErrnoException) => {
    const what = error.code === 'ENOENT' ? 'has no config.json' : 'has a config.json that can’t be read';
    throw new BerthError('model_file_invalid', `${folder} ${what}: it is no model folder, or not a whole one.`, {
      cause: error,
    });
  });
  if (isObject(config)) return config;
  throw new BerthError('model_file_invalid', `${path} holds no object.`);
}

const readJson = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, 'utf8'));

function kvBytesPerToken(config: Record<string, unknown>): Bytes | null {
  // Latent attention keeps something smaller, which each server lays out in its own way.
  if (config['kv_lora_rank'] !== undefined) return null;
  const layers = wholeNumber(config['num_hidden_layers']);
  const heads = wholeNumber(config['num_attention_heads']);
  const hidden = wholeNumber(config['hidden_size']);
  const headDim = wholeNumber(config['head_dim']) ?? (hidden !== null && heads !== null ? hidden / heads : null);
  const kvHeads = wholeNumber(config['num_key_value_heads']) ?? heads;
  if (layers === null || headDim === null || kvHeads === null) return null;
  return Math.ceil(2 * layers * kvHeads * headDim * KV_ELEMENT_BYTES);
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const wholeNumber = (value: unknown): number | null =>
  typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? value : null;

const firstText = (value: unknown): string | null =>
  Array.isArray(value) && typeof value[0] === 'string' ? value[0] : null;
