/**
 * Where the two small real models of the tests are: `$BERTH_TEST_MODELS`, else `$BERTH_HOME/models`, else `.berth/models` of the
 * repository. `npm test` fetches them (see scripts/setup.mjs).
 */
import { existsSync } from 'node:fs';
import path from 'node:path';

const repository = path.dirname(import.meta.dirname);

function find(file: string): string {
  const { BERTH_TEST_MODELS: given, BERTH_HOME: home } = process.env;
  const folders = [given, home ? path.join(home, 'models') : undefined, path.join(repository, '.berth', 'models')];
  for (const folder of folders) {
    if (folder && existsSync(path.join(folder, file))) return path.resolve(folder, file);
  }
  throw new Error(
    `${file} is not there: run \`npm test\` once (it fetches the model), or set BERTH_TEST_MODELS to its folder`,
  );
}

/** SmolLM2-135M-Instruct, Q4_1 (98 MB): has a chat template. Throws if the file is missing. */
export const smollm2Path = (): string => find('smollm2-135m.gguf');

/** Gemma 3 270M base, Q4_K_M (253 MB): no chat template. Throws if the file is missing. */
export const gemmaPath = (): string => find('gemma3-270m.gguf');
