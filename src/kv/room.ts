/**
 * Who holds which byte of one tier? Reserve, commit, release by handle; files and reservations together never exceed the budget. A room
 * is shut until it is known what lies in it already. Pure.
 */
import type { Bytes } from '../core/ids.ts';

export interface Room {
  readonly budgetBytes: Bytes;
  /** What may be reserved now; 0 while it is shut. */
  free(): Bytes;
  /** What is on its way out: held still, and free soon. */
  coming(): Bytes;
  /** Files, those on their way out included, and what was found and is not judged yet. */
  fileBytes(): Bytes;
  reservedBytes(): Bytes;
  /** Not all that lies in it is known yet. */
  isScanning(): boolean;
  /** It was shut; so much lies in it already. */
  open(foundBytes: Bytes): void;
  /** False, and nothing changed, where it does not fit or the handle is known. */
  reserve(handle: string, bytes: Bytes): boolean;
  /** A reservation becomes a file of at most its bytes; the rest is free again. False, and nothing changed, otherwise. */
  commit(handle: string, bytes: Bytes): boolean;
  /** A file that was found gets its handle; false where the handle is known. */
  adopt(handle: string, bytes: Bytes): boolean;
  /** So much of what was found is gone. */
  shed(bytes: Bytes): void;
  /** All that was found has been looked at; what is left of it stays, and counts. */
  scanned(): void;
  setLeaving(handle: string, isLeaving: boolean): void;
  /** What the handle held is free again. Unknown handles hold nothing. */
  release(handle: string): void;
}

interface Holding {
  bytes: Bytes;
  isFile: boolean;
  isLeaving: boolean;
}

export function createRoom(budgetBytes: Bytes): Room {
  const holdings = new Map<string, Holding>();
  let files = 0;
  let reserved = 0;
  let leaving = 0;
  let found = 0;
  let isShut = true;
  let isScanning = true;

  const free = (): Bytes => (isShut ? 0 : Math.max(0, budgetBytes - files - reserved - found));
  const add = (handle: string, bytes: Bytes, isFile: boolean): void => {
    holdings.set(handle, { bytes, isFile, isLeaving: false });
    if (isFile) files += bytes;
    else reserved += bytes;
  };

  return {
    budgetBytes,
    free,
    coming: () => leaving,
    fileBytes: () => files + found,
    reservedBytes: () => reserved,
    isScanning: () => isScanning,
    open(foundBytes) {
      isShut = false;
      found = foundBytes;
    },
    reserve(handle, bytes) {
      if (holdings.has(handle) || bytes > free()) return false;
      add(handle, bytes, false);
      return true;
    },
    commit(handle, bytes) {
      const holding = holdings.get(handle);
      if (holding === undefined || holding.isFile || bytes > holding.bytes) return false;
      reserved -= holding.bytes;
      files += bytes;
      if (holding.isLeaving) leaving += bytes - holding.bytes;
      holding.bytes = bytes;
      holding.isFile = true;
      return true;
    },
    adopt(handle, bytes) {
      if (holdings.has(handle)) return false;
      found = Math.max(0, found - bytes);
      add(handle, bytes, true);
      return true;
    },
    shed(bytes) {
      found = Math.max(0, found - bytes);
    },
    scanned() {
      isShut = false;
      isScanning = false;
    },
    setLeaving(handle, isLeaving) {
      const holding = holdings.get(handle);
      if (holding === undefined || holding.isLeaving === isLeaving) return;
      holding.isLeaving = isLeaving;
      leaving += isLeaving ? holding.bytes : -holding.bytes;
    },
    release(handle) {
      const holding = holdings.get(handle);
      if (holding === undefined) return;
      holdings.delete(handle);
      if (holding.isFile) files -= holding.bytes;
      else reserved -= holding.bytes;
      if (holding.isLeaving) leaving -= holding.bytes;
    },
  };
}
