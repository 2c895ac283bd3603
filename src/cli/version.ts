import { readFileSync } from 'node:fs';

const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));

/** Berth's own, as package.json has it. */
export const version: string = (manifest as { version: string }).version;
