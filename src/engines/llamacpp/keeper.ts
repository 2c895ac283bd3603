/**
 * Idle KV between the context and files: saves a sequence when it has leave to, reads one back when it is proven. What is not
 * proven (owner, model, release, tokens, checksum, size, positions) is not used: then the prompt is computed.
 */
import type { Bytes, KvEntryId } from '../../core/ids.ts';
import type { KvEvent, KvFile, KvGrant } from '../engine.ts';
import type { OpenKvFile } from '../kv-file.ts';
import { KV_FILE_OVERHEAD_BYTES, kvFileBytes, readKvHead, readKvState, writeKvFile } from '../kv-file.ts';
import type { Pointer } from './binding.ts';
import { viewAt } from './binding.ts';
import { nowMicros } from './common.ts';
import type { ElasticContext } from './elastic.ts';
import type { Model } from './model.ts';
import type { Idle } from './prefixes.ts';
import { isSavedWhole } from './prefixes.ts';

export interface SavedState {
  readonly path: string;
  readonly open: OpenKvFile;
}

/** llama.h's LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: of a model with a sliding window, the layers that it slides over. */
const WINDOW_ONLY = 1;

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
    const { llama, windowTokens } = this.#model;
    const { stateBytes, branch } = open.head;
    const branchBytes = branch?.bytes ?? 0;
    const bytes = stateBytes - branchBytes;
    return (
      this.#withMemory([bytes, branchBytes], ([memory, branchMemory]) => {
        const { pointer } = this.#context;
        const isRead =
          readKvState(path, open, viewOf(memory, bytes), viewOf(branchMemory, branchBytes)) &&
          llama.llama_state_seq_set_data(pointer, memory, bytes, seat) === bytes &&
          this.#context.spans(seat, open.tokens.length);
        this.#context.truncate(seat, isRead ? cells : 0);
        // Nothing of it is asked for that its end's window has not: else the branch's is put in that one's place.
        if (!isRead || isSavedWhole(cells, open.tokens.length, windowTokens)) return isRead;
        const isBranch =
          llama.llama_state_seq_set_data_ext(pointer, branchMemory, branchBytes, seat, WINDOW_ONLY) === branchBytes &&
          this.#context.spans(seat, cells);
        if (!isBranch) this.#context.truncate(seat, 0);
        return isBranch;
      }) ?? false
    );
  }

  /** Memory of these sizes while `use` lasts; null where there is none. */
  #withMemory<T>(sizes: readonly [Bytes, Bytes], use: (memory: readonly [Pointer, Pointer]) => T): T | null {
    const { llama } = this.#model;
    const [first = null, second = null] = sizes.map((bytes) => llama.allocate(Math.max(bytes, 1)));
    try {
      return first === null || second === null ? null : use([first, second]);
    } finally {
      for (const memory of [first, second]) if (memory !== null) llama.release(memory);
    }
  }

  /** The request has ended, and its KV stays for now. */
  kept(idle: Idle): void {
    const { entryId, tokens, seat } = idle;
    this.#idle.add(entryId);
    const branchBytes = this.#branchOf(idle) === null ? 0 : this.#windowBytes(seat);
    const bytes = kvFileBytes(tokens.length, this.#sizeOf(seat) + branchBytes);
    this.#tell({ type: 'kept', entryId, tokens: tokens.length, bytes });
  }

  /**
   * Where a saved sequence may be gone on from besides its end, though a window slides: before the last token of what it was asked,
   * for whoever asks the same again, or whose next turn puts the answer in other tokens. null: at any point, or nowhere else.
   */
  #branchOf({ tokens, promptTokens, seat }: Idle): number | null {
    const at = promptTokens - 1;
    const isOfUse = !isSavedWhole(at, tokens.length, this.#model.windowTokens) && at > 0 && at < tokens.length;
    return isOfUse && this.#context.canBranch(seat, at) ? at : null;
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

  /** What the window's layers hold for the tokens that it sees: at an earlier point no more. */
  #windowBytes(sequence: number): Bytes {
    return this.#model.llama.llama_state_seq_get_size_ext(this.#context.pointer, sequence, WINDOW_ONLY);
  }

  /** Bytes of the file; null if it could not be written, or would be larger than it may be. */
  #save(idle: Idle, grant: KvGrant): Bytes | null {
    const { seat, tenantId, tokens } = idle;
    const size = this.#sizeOf(seat);
    const isFitting = (state: Bytes): boolean =>
      grant.tenantId === tenantId && kvFileBytes(tokens.length, state) - KV_FILE_OVERHEAD_BYTES <= grant.bytes;
    if (!isFitting(size)) return null;
    const at = this.#branchOf(idle);
    if (at === null || !isFitting(size + this.#windowBytes(seat))) return this.#write(idle, grant, size, null);
    return this.#context.withBranch(seat, at, (sequence) => this.#write(idle, grant, size, { at, sequence }));
  }

  #write(
    { entryId, tenantId, tokens, seat }: Idle,
    { path, fingerprint, label }: KvGrant,
    size: Bytes,
    from: { readonly at: number; readonly sequence: number } | null,
  ): Bytes | null {
    const { llama } = this.#model;
    const { pointer } = this.#context;
    const branchSize = from === null ? 0 : this.#windowBytes(from.sequence);
    return this.#withMemory([size, branchSize], ([memory, branchMemory]) => {
      const bytes = llama.llama_state_seq_get_data(pointer, memory, size, seat);
      const branchBytes =
        from === null
          ? 0
          : llama.llama_state_seq_get_data_ext(pointer, branchMemory, branchSize, from.sequence, WINDOW_ONLY);
      if (bytes === 0 || bytes > size || branchBytes !== branchSize) return null;
      const branch = from !== null && { branch: { tokens: from.at, bytes: branchBytes } };
      const head = { entryId, tenantId, fingerprint, engine: llama.version, label, ...branch };
      try {
        return writeKvFile(path, head, tokens, viewOf(memory, bytes), viewOf(branchMemory, branchBytes));
      } catch {
        // The disk is full, or the folder is gone: it is computed again, then.
        return null;
      }
    });
  }

  #forget(entryId: KvEntryId, why: Extract<KvEvent, { type: 'dropped' }>['why']): void {
    this.#idle.delete(entryId);
    this.#grants.delete(entryId);
    this.#tell({ type: 'dropped', entryId, why });
  }
}

const viewOf = (memory: Pointer, bytes: Bytes): Uint8Array => new Uint8Array(viewAt(memory, bytes));
