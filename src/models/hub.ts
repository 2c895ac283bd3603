/** Finds the file of `hf:ORG/REPO[@REVISION][:FILE-OR-QUANT]` on a Hugging Face hub; `fetch.ts` then downloads it. */
import { HUB_URL, HubApiError, listFiles } from '@huggingface/hub';
import type { ListFileEntry } from '@huggingface/hub';
import { BerthError } from '../errors.ts';
import type { Bytes } from '../core/ids.ts';

/** Preferred when no file is named: small, and close to the full model in quality. */
const PREFERRED_QUANT = 'Q4_K_M';
const MAX_FILES = 10_000;
const SHOWN_CHOICES = 20;
const LIST_LIMIT_MILLIS = 60_000;

export interface HubSource {
  readonly repo: string;
  readonly revision: string;
  /** A file's name or a quantisation; null: choose. */
  readonly wanted: string | null;
}

export interface HubFile {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly file: string;
  readonly sizeBytes: Bytes;
  /** Of files in large-file storage, which models are. */
  readonly sha256: string | null;
}

export interface HubOptions {
  /** null: the library's own. */
  readonly hubUrl: string | null;
  readonly token: string | null;
  readonly signal: AbortSignal;
}

/** Parses what follows `hf:`; throws `invalid_request`. */
export function parseHubSource(text: string): HubSource {
  const match = /^([\w.-]+\/[\w.-]+)(?:@([^:\s]+))?(?::(\S+))?$/.exec(text);
  if (
    match?.[1] === undefined ||
    match[1].includes('..') ||
    match[2]?.includes('..') ||
    match[3]?.split('/').includes('..')
  ) {
    throw new BerthError(
      'invalid_request',
      'a hub model is written hf:ORG/REPO, hf:ORG/REPO:QUANT or hf:ORG/REPO:FILE.gguf',
      {
        param: 'source',
      },
    );
  }
  return { repo: match[1], revision: match[2] ?? 'main', wanted: match[3] ?? null };
}

const isModelFile = (path: string): boolean => /\.gguf$/i.test(path) && !/(^|\/)mmproj[^/]*$/i.test(path);

/** `Q4_K_M` of `model-Q4_K_M.gguf`, whatever its case and separators. */
function hasQuant(path: string, quant: string): boolean {
  const bare = path.replace(/\.gguf$/i, '').toLowerCase();
  return new RegExp(`(^|[^a-z0-9])${quant.toLowerCase().replaceAll(/[^a-z0-9]/g, '[-_.]')}($|[^a-z0-9_])`).test(bare);
}

/** The one file that is meant. Throws `not_found` or `invalid_request`, and lists the choices. */
function chooseFile(paths: readonly string[], wanted: string | null, repo: string): string {
  const models = paths.filter(isModelFile);
  const exact = models.find((path) => path === wanted) ?? models.filter((path) => path.split('/').pop() === wanted)[0];
  let fitting: readonly string[];
  if (exact !== undefined) fitting = [exact];
  else if (wanted !== null) fitting = models.filter((path) => hasQuant(path, wanted));
  else if (models.length === 1) fitting = models;
  else fitting = models.filter((path) => hasQuant(path, PREFERRED_QUANT));
  const [only] = fitting;
  if (only !== undefined && fitting.length === 1) {
    if (!/-\d{5}-of-\d{5}\.gguf$/i.test(only)) return only;
    throw new BerthError(
      'invalid_request',
      `${only} is one part of a split model; fetch its parts into the models folder yourself`,
      {
        param: 'source',
      },
    );
  }
  if (models.length === 0) throw new BerthError('not_found', `${repo} has no .gguf file`, { param: 'source' });
  const problem =
    fitting.length === 0
      ? wanted === null
        ? 'has several .gguf files'
        : `has no file for ${wanted}`
      : 'has several that fit';
  const choices = (fitting.length === 0 ? models : fitting).slice(0, SHOWN_CHOICES).join(', ');
  throw new BerthError(
    fitting.length === 0 && wanted !== null ? 'not_found' : 'invalid_request',
    `${repo} ${problem}: ${choices}`,
    {
      param: 'source',
    },
  );
}

/** Asks the hub. Throws `not_found`, `forbidden`, `download_failed`, and what `chooseFile` throws. */
export async function resolveHub(source: HubSource, { hubUrl, token, signal }: HubOptions): Promise<HubFile> {
  const hub = (hubUrl ?? HUB_URL).replace(/\/+$/, '');
  if (token !== null && !token.startsWith('hf_')) {
    throw new BerthError('invalid_request', 'a hub token starts with hf_ (HF_TOKEN)', { param: 'token' });
  }
  const limited = AbortSignal.any([signal, AbortSignal.timeout(LIST_LIMIT_MILLIS)]);
  const entries: ListFileEntry[] = [];
  try {
    const listing = listFiles({
      repo: source.repo,
      revision: source.revision,
      recursive: true,
      hubUrl: hub,
      fetch: (input, init) => fetch(input, { ...init, signal: limited }),
      ...(token === null ? {} : { accessToken: token }),
    });
    for await (const entry of listing) {
      if (entry.type === 'file') entries.push(entry);
      if (entries.length > MAX_FILES)
        throw new BerthError('download_failed', `${source.repo} has more than ${MAX_FILES} files`);
    }
  } catch (error) {
    throw hubError(error, source, signal);
  }
  const file = chooseFile(
    entries.map(({ path }) => path),
    source.wanted,
    source.repo,
  );
  const entry = entries.find(({ path }) => path === file);
  const path = file.split('/').map(encodeURIComponent).join('/');
  return {
    url: `${hub}/${source.repo}/resolve/${encodeURIComponent(source.revision)}/${path}`,
    // Fetch drops it when a redirect leaves the hub for its storage.
    headers: token === null ? {} : { authorization: `Bearer ${token}` },
    file,
    sizeBytes: entry?.lfs?.size ?? entry?.size ?? 0,
    sha256: entry?.lfs?.oid ?? null,
  };
}

function hubError(error: unknown, { repo, revision }: HubSource, signal: AbortSignal): BerthError {
  if (error instanceof BerthError) return error;
  if (signal.aborted) return new BerthError('request_cancelled', 'the pull was stopped');
  if (error instanceof HubApiError) {
    const { statusCode } = error;
    if (statusCode === 404)
      return new BerthError('not_found', `the hub has no ${repo} at ${revision}`, { param: 'source' });
    if (statusCode === 401 || statusCode === 403) {
      return new BerthError(
        'forbidden',
        `the hub refuses access to ${repo} (${statusCode}): it may not exist, or need HF_TOKEN`,
      );
    }
    return new BerthError('download_failed', `the hub answered ${statusCode} for ${repo}`, { cause: error });
  }
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  const reason = (cause as NodeJS.ErrnoException).code ?? (cause instanceof Error ? cause.message : String(cause));
  return new BerthError('download_failed', `the hub can't be reached (${reason})`, { cause: error });
}
