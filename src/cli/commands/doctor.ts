/** `berth doctor`: looks at all that a node needs, and says what to do about what is missing. It changes nothing. */
import { styleText } from 'node:util';
import { loadConfig } from '../../config.ts';
import { BerthError } from '../../errors.ts';
import {
  configCheck,
  engineCheck,
  folderChecks,
  groupCheck,
  machineChecks,
  nodeCheck,
  pipCheck,
  portChecks,
} from '../checks.ts';
import type { Check } from '../checks.ts';
import type { FolderOptions } from '../folder.ts';
import type { Io } from '../io.ts';
import { json } from '../output.ts';

export async function doctor(io: Io, options: FolderOptions): Promise<void> {
  const flags = options.modelsDir === undefined ? {} : { modelsDir: options.modelsDir };
  const { check, loaded } = configCheck(() => loadConfig({ path: options.config, flags, env: io.env, cwd: io.cwd }));
  const checks = [nodeCheck(), await engineCheck(), check];
  if (loaded !== null) {
    const { config } = loaded;
    checks.push(
      ...machineChecks(config),
      await groupCheck(),
      ...(await folderChecks(config)),
      ...(await portChecks(config)),
    );
  }
  checks.push(await pipCheck());
  io.out(options.json === true ? json(checks) : render(checks, io.stdoutIsTty));
  const failed = checks.filter(({ status }) => status === 'fail');
  const [first] = failed;
  if (first !== undefined) {
    const names = failed.map(({ name }) => name).join(', ');
    throw new BerthError(first.code, `${failed.length} of ${checks.length} checks failed: ${names}`);
  }
}

const COLOURS = { ok: 'green', warn: 'yellow', fail: 'red' } as const;

export function render(checks: readonly Check[], styled: boolean): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  return checks
    .map(({ name, status, message, advice }) => {
      const word = status.padEnd(4);
      const mark = styled ? styleText(COLOURS[status], word, { validateStream: false }) : word;
      const indent = ' '.repeat(width + 8);
      const lines = [...message.split('\n'), ...(advice === null ? [] : [`→ ${advice}`])];
      return `${mark}  ${name.padEnd(width)}  ${lines.join(`\n${indent}`)}\n`;
    })
    .join('');
}
