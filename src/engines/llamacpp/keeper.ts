/**
 * Idle KV between the context and files: saves a sequence when it has leave to, reads one back when it is proven. What is not
 * proven (owner, model, release, tokens, checksum, size, positions) is not used: then the prompt is computed.
 */
import type { Bytes, KvEntryId, TenantId } from '../../core/ids.ts';
import type { KvEvent, KvFile, KvGrant } from '../engine.ts';
import type { OpenKvFile } from '../kv-file.ts';
import { KV_FILE_OVERHEAD_BYTES, kvFileBytes, readKvHead, readKvState, writeKvFile } from '../kv-file.ts';
import { viewAt } from './binding.ts';
import { nowMicros } from './common.ts';
import type { ElasticContext } from './elastic.ts';
import type { Model } from './model.ts';
import type { Idle } from './prefixes.ts';

export interface SavedState {
  readonly path: string;
  readonly open: OpenKvFile;
}

export class KvKeeper {
  readonly #model: Model;
  readonly #context: ElasticContext;
  readonly #tell: (event: KvEvent) => void;
  readonly #grants = new Map<KvEntryId, KvGrant>();
  /** Entries that are idle on the device: leave for another one comes too late. */
  readonly #idle = new Set<KvEntryId>();

  constructor(model: Model, context: ElasticContext, tell: (event: KvEvent) => void) {
    this.#model = model;
    this.#context = context;
    this.#tell = tell;
  }

  /** The file's head, if the file is what the plan says and this library could read it; null: it is of no use. */
  look({ path, tenantId, fingerprint }: KvFile): SavedState | null {
    const open = readKvHead(path);
    if (open === null) return null;
    const { head } = open;
    const isOurs =
      head.tenantId === tenantId && head.fingerprint === fingerprint && head.engine === this.#model.llama.version;
    return isOurs ? { path, open } : null;
  }

  /** Reads the state into an empty seat and keeps its first `cells`. False, and the seat empty, if anything is not as it should be. */
  restore(seat: number, { path, open }: SavedState, cells: number): boolean {
    const { llama } = this.#model;
    const { stateBytes } = open.head;
    const memory = llama.allocate(stateBytes);
    if (memory === null) return false;
    try {
      const isWhole =
        readKvState(path, open, new Uint8Array(viewAt(memory, stateBytes))) &&
        llama.llama_state_seq_set_data(this.#context.pointer, memory, stateBytes, seat) === stateBytes &&
        this.#context.spans(seat, open.tokens.length);
      this.#context.truncate(seat, isWhole ? cells : 0);
      return isWhole;
    } finally {
      llama.release(memory);
    }
  }

  /** The request has ended, and its KV stays for now. */
  kept({ entryId, tokens, seat }: Idle): void {
    this.#idle.add(entryId);
    this.#tell({ type: 'kept', entryId, tokens: tokens.length, bytes: kvFileBytes(tokens.length, this.#sizeOf(seat)) });
  }

  /** Too little to be kept. */
  needless(entryId: KvEntryId): void {
    this.#forget(entryId, 'needless');
  }

  /** Before the request has ended, too: it may be preempted for a model that takes this one's place at once. */
  grant(grant: KvGrant, isAwaited: boolean): void {
    if (isAwaited || this.#idle.has(grant.entryId)) this.#grants.set(grant.entryId, grant);
  }

  continued({ entryId }: Idle): void {
    this.#forget(entryId, 'continued');
  }

  /** It is saved, if it may be, and leaves. False: it stays, since it may not, and its cells aren't needed. */
  leaves(idle: Idle, isNeeded: boolean): boolean {
    const { entryId } = idle;
    const grant = this.#grants.get(entryId);
    if (grant === undefined && !isNeeded) return false;
    const started = nowMicros();
    const bytes = grant === undefined ? null : this.#save(idle, grant);
    if (bytes === null) this.#forget(entryId, grant === undefined ? 'needless' : 'failed');
    else {
      this.#idle.delete(entryId);
      this.#grants.delete(entryId);
      this.#tell({ type: 'saved', entryId, bytes, micros: nowMicros() - started });
    }
    return true;
  }

  gone(idle: readonly Idle[]): void {
    for (const { entryId } of idle) this.#forget(entryId, 'failed');
  }

  #sizeOf(seat: number): Bytes {
    return this.#model.llama.llama_state_seq_get_size(this.#context.pointer, seat);
  }

  /** Bytes of the file; null if it could not be written, or would be larger than it may be. */
  #save({ entryId, tenantId, tokens, seat }: Idle, grant: KvGrant): Bytes | null {
    const { llama } = this.#model;
    const size = this.#sizeOf(seat);
    if (!isFitting(grant, tenantId, kvFileBytes(tokens.length, size) - KV_FILE_OVERHEAD_BYTES)) return null;
    const memory = llama.allocate(size);
    if (memory === null) return null;
    try {
      const bytes = llama.llama_state_seq_get_data(this.#context.pointer, memory, size, seat);
      if (bytes === 0 || bytes > size) return null;
      const { fingerprint, label } = grant;
      const head = { entryId, tenantId, fingerprint, engine: llama.version, label };
      return writeKvFile(grant.path, head, tokens, new Uint8Array(viewAt(memory, bytes)));
    } catch {
      // The disk is full, or the folder is gone: it is computed again, then.
      return null;
    } finally {
      llama.release(memory);
    }
  }

  #forget(entryId: KvEntryId, why: Extract<KvEvent, { type: 'dropped' }>['why']): void {
    this.#idle.delete(entryId);
    this.#grants.delete(entryId);
    this.#tell({ type: 'dropped', entryId, why });
  }
}

const isFitting = (grant: KvGrant, tenantId: TenantId, bytes: Bytes): boolean =>
  grant.tenantId === tenantId && bytes <= grant.bytes;
