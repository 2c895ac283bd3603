/**
 * Contents of uploaded files and of results, each a file named by its id alone. What a client calls it is in its row. A file is there
 * in whole or not at all: it is written under another name, synced, and renamed.
 */
import { createReadStream, readdirSync } from 'node:fs';
import type { ReadStream } from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import type { TenantId } from '../../core/ids.ts';
import { BerthError } from '../../errors.ts';
import type { FileRow, FileStore, Page } from '../../store/files.ts';

export interface VaultLimits {
  /** Of one upload. */
  readonly fileBytes: number;
  /** Of all files of a tenant. */
  readonly tenantBytes: number;
}

export const VAULT_LIMITS: VaultLimits = { fileBytes: 64 * 1024 * 1024, tenantBytes: 1024 * 1024 * 1024 };

const PART = '.part';
/** Contents without a row that are older than this were left by a process that ended. */
const LEFT_MILLIS = 3_600_000;

export const newFileId = (): string => `file-${randomBytes(12).toString('hex')}`;

export class FileVault {
  readonly limits: VaultLimits;
  readonly #folder: string;
  readonly #rows: FileStore;

  constructor(folder: string, rows: FileStore, limits: VaultLimits = VAULT_LIMITS) {
    this.#folder = folder;
    this.#rows = rows;
    this.limits = limits;
  }

  pathOf(id: string): string {
    return join(this.#folder, id);
  }

  /** @throws BerthError body_too_large: the tenant's files would be too large together. */
  async add(tenant: TenantId, purpose: string, filename: string, bytes: Uint8Array): Promise<FileRow> {
    if (this.#rows.bytesOf(tenant) + bytes.byteLength > this.limits.tenantBytes) {
      throw new BerthError(
        'body_too_large',
        `All files of a tenant together may hold ${this.limits.tenantBytes} bytes: delete some.`,
      );
    }
    const row: FileRow = {
      id: newFileId(),
      tenantId: tenant,
      purpose,
      filename: filename.slice(0, 255),
      bytes: bytes.byteLength,
      createdAt: Date.now(),
    };
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const path = this.pathOf(row.id);
    const handle = await open(`${path}${PART}`, 'wx', 0o600);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${path}${PART}`, path);
    this.#rows.add(row);
    return row;
  }

  /** @throws BerthError not_found: none, or another tenant's. */
  get(id: string, tenant: TenantId): FileRow {
    const row = this.#rows.get(id, tenant);
    if (row === null) throw new BerthError('not_found', 'There is no such file.');
    return row;
  }

  list(tenant: TenantId, purpose: string | null, page: Page): FileRow[] {
    return this.#rows.list(tenant, purpose, page);
  }

  read(row: FileRow): ReadStream {
    return createReadStream(this.pathOf(row.id));
  }

  /** @throws BerthError not_found */
  async remove(id: string, tenant: TenantId): Promise<void> {
    if (!this.#rows.remove(id, tenant)) throw new BerthError('not_found', 'There is no such file.');
    await rm(this.pathOf(id), { force: true });
  }

  /** Removes what a killed process has left: contents without a row, not of today's uploads. `keep`: ids that get their rows later. */
  async sweep(keep: ReadonlySet<string>): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const known = this.#rows.ids();
    for (const name of readdirSync(this.#folder)) {
      if (known.has(name) || keep.has(name)) continue;
      const path = join(this.#folder, name);
      // An upload has its row a moment after its contents.
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }));
      if (Date.now() - mtimeMs > LEFT_MILLIS) await rm(path, { force: true });
    }
  }
}
