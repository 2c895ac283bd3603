/**
 * `npm start` and `npm test`: sets up what is missing, then runs. A plain script without dependencies, because a fresh clone has
 * none and the machine's own Node may be old (18 or newer will do); everything after the set-up runs on the pinned Node.
 *
 *   node scripts/setup.mjs start [arguments of `berth serve`]
 *   node scripts/setup.mjs test  [arguments of `vitest run`]
 *   node scripts/setup.mjs       only sets up
 *
 * Safe to run again and fast the second time: dependencies are keyed by the lock file, models by size, time and checksum.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const INSTALL_LIMIT_SECONDS = 30 * 60;
const LOCK_LIMIT_SECONDS = 60 * 60;
const OLDEST_NODE = [22, 18];

/** An expected failure: its message is all that is shown. */
class SetupError extends Error {}

const say = (line) => process.stderr.write(`${line}\n`);
const readJson = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
const tryJson = (file) => {
  try {
    return readJson(file);
  } catch {
    return null;
  }
};
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Shows that something goes on: one moving line in a terminal, else a line at the start and each half minute. */
function progress(label) {
  const started = Date.now();
  const terminal = process.stderr.isTTY === true;
  const seconds = () => Math.round((Date.now() - started) / 1000);
  if (!terminal) say(`${label} …`);
  const timer = setInterval(
    () => (terminal ? process.stderr.write(`\r\x1b[K${label} … ${seconds()} s`) : say(`${label} … ${seconds()} s`)),
    terminal ? 500 : 30_000,
  );
  return (end) => {
    clearInterval(timer);
    process.stderr.write(`${terminal ? '\r\x1b[K' : ''}${label}: ${end} (${seconds()} s)\n`);
  };
}

/** Runs a child, hands it our signals, and resolves when it has ended. `capture` keeps the last 64 KiB of what it prints. */
function run(command, args, { env = process.env, capture = false, limitSeconds = 0 } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: ROOT, env, stdio: capture ? ['ignore', 'pipe', 'pipe'] : 'inherit' });
    let output = '';
    let late = false;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text) => (output = (output + text).slice(-65_536)));
    }
    const timer =
      limitSeconds > 0
        ? setTimeout(() => {
            late = true;
            child.kill('SIGKILL');
          }, limitSeconds * 1000)
        : null;
    const forward = {};
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
      // A terminal sends Ctrl-C to the whole process group: sending it again would read as a second, impatient one.
      forward[signal] = () => (signal === 'SIGINT' && process.stdin.isTTY ? undefined : child.kill(signal));
      process.on(signal, forward[signal]);
    }
    const done = () => {
      if (timer) clearTimeout(timer);
      for (const signal of Object.keys(forward)) process.off(signal, forward[signal]);
    };
    child.on('error', (error) => {
      done();
      reject(error);
    });
    child.on('close', (code, signal) => {
      done();
      resolve({ code: code ?? 128 + (os.constants.signals[signal] ?? 0), output, late });
    });
  });
}

// ── dependencies ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** What an installation depends on: the lock file and the platform. */
export function installStamp(root) {
  const hash = createHash('sha256').update(fs.readFileSync(path.join(root, 'package-lock.json')));
  return hash.update(`\n${process.platform}-${process.arch}\n`).digest('hex');
}

const fits = (allowed, value) => allowed === undefined || allowed.includes(value);

/**
 * Is what npm says it installed (its hidden lock file) what the lock file asks for? So a folder that somebody filled with their
 * own `npm ci` is taken over instead of being installed again. Optional packages of other platforms may be missing.
 */
export function installedMatches(root) {
  const wanted = tryJson(path.join(root, 'package-lock.json'))?.packages;
  const installed = tryJson(path.join(root, 'node_modules', '.package-lock.json'))?.packages;
  if (!wanted || !installed) return false;
  const same = ([name, entry]) => wanted[name] !== undefined && wanted[name].version === entry.version;
  const here = ([name, entry]) => {
    if (name === '' || installed[name] !== undefined) return true;
    const canSkip = entry.optional === true || entry.devOptional === true || entry.peer === true;
    return canSkip && !(entry.cpu && fits(entry.os, process.platform) && fits(entry.cpu, process.arch) && !entry.libc);
  };
  return Object.entries(installed).every(same) && Object.entries(wanted).every(here);
}

async function ensureDependencies() {
  const stampFile = path.join(ROOT, 'node_modules', '.berth-stamp');
  const stamp = installStamp(ROOT);
  if (fs.existsSync(stampFile) && fs.readFileSync(stampFile, 'utf8') === stamp) return;
  if (!installedMatches(ROOT)) await install();
  fs.writeFileSync(stampFile, stamp);
}

async function install() {
  const inside = path.join(ROOT, 'node_modules');
  // `npm ci` empties node_modules first: nothing that runs it may live there.
  const env = { ...process.env };
  const search = (env.PATH ?? '')
    .split(path.delimiter)
    .filter((folder) => !path.resolve(ROOT, folder).startsWith(inside));
  env.PATH = search.join(path.delimiter);
  delete env.NODE_ENV;
  const { npm_node_execpath: node, npm_execpath: npm } = env;
  const own = node && npm && !node.startsWith(inside) && fs.existsSync(node) ? [node, [npm]] : ['npm', []];
  const count = Object.keys(tryJson(path.join(ROOT, 'package-lock.json'))?.packages ?? {}).length;
  const end = progress(`Installing dependencies (${count} packages in the lock file)`);
  const flags = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error'];
  let result;
  try {
    result = await run(own[0], [...own[1], ...flags], { env, capture: true, limitSeconds: INSTALL_LIMIT_SECONDS });
  } catch (error) {
    end('failed');
    throw new SetupError(`npm can't be run (${error.message}): install Node with npm, then try again.`);
  }
  end(result.code === 0 ? 'done' : 'failed');
  if (result.code === 0) return;
  say(result.output.trimEnd());
  if (result.late)
    throw new SetupError(`npm ci took longer than ${INSTALL_LIMIT_SECONDS / 60} minutes and was stopped.`);
  const offline = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|ECONNRESET|ENOTCACHED|EHOSTUNREACH/.exec(
    result.output,
  );
  throw new SetupError(
    offline
      ? `The package registry can't be reached (${offline[0]}). Check the network and npm's \`registry\` setting, then run the same command again.`
      : `npm ci failed with exit code ${result.code}; its output is above.`,
  );
}

// ── Node ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The pinned Node of node_modules; where the platform has none (macOS, Windows), the Node that runs this, if it is new enough. */
export function pinnedNode(root, running = { execPath: process.execPath, version: process.versions.node }) {
  const pinned = path.join(root, 'node_modules', '.bin', 'node');
  if (fs.existsSync(pinned)) return pinned;
  const [major = 0, minor = 0] = running.version.split('.').map(Number);
  if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1])) return running.execPath;
  throw new SetupError(
    `Berth needs Node ${OLDEST_NODE.join('.')} or newer; this is ${running.version}, and npm brings none for ${process.platform}-${process.arch}. Install Node 24, then run the same command again.`,
  );
}

function pinnedEnv(home) {
  const bin = path.join(ROOT, 'node_modules', '.bin');
  const env = { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ''}` };
  if (home) env.BERTH_HOME = home;
  return env;
}

// ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Is the model there, as the puller left it? Its note beside the folder has the size, the time and the checksum it had then. */
export function modelInPlace(modelsDir, model) {
  const file = `${model.name}.gguf`;
  const note = tryJson(path.join(modelsDir, '.pulled', `${file}.json`));
  if (note?.sha256 !== model.sha256) return false;
  const stat = fs.statSync(path.join(modelsDir, file), { throwIfNoEntry: false });
  return (
    stat?.size === model.sizeBytes && stat.size === note.sizeBytes && Math.trunc(stat.mtimeMs) === note.mtimeMillis
  );
}

async function ensureModels(home, command) {
  const modelsDir = path.join(home, 'models');
  const models = readJson(path.join(ROOT, 'src', 'models', 'defaults.json'));
  if (models.every((model) => modelInPlace(modelsDir, model))) return;
  const given = process.env.BERTH_TEST_MODELS;
  if (command === 'test' && given && models.every(({ name }) => fs.existsSync(path.join(given, `${name}.gguf`))))
    return;
  const puller = path.join(ROOT, 'src', 'models', 'pull-defaults.ts');
  const { code } = await run(pinnedNode(ROOT), [puller], { env: pinnedEnv(home) });
  if (code === 0) return;
  const others = fs.existsSync(modelsDir) && fs.readdirSync(modelsDir).some((name) => name.endsWith('.gguf'));
  if (command !== 'start' || !others)
    throw new SetupError('The models could not be fetched; run the same command again to go on.');
  say('Going on with the models that are there.');
}

// ── one set-up at a time ──────────────────────────────────────────────────────────────────────────────────────────────

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Waits for another set-up of this clone, so that `npm start` beside `npm test` doesn't empty node_modules under its feet. */
async function withLock(work) {
  const file = path.join(ROOT, '.berth', 'setup.lock');
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const deadline = Date.now() + LOCK_LIMIT_SECONDS * 1000;
  for (let told = false; ; told = true) {
    try {
      fs.writeFileSync(file, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    let owner = NaN;
    try {
      owner = Number(fs.readFileSync(file, 'utf8'));
    } catch {
      continue;
    }
    if (owner > 0 && !alive(owner)) fs.rmSync(file, { force: true });
    else if (Date.now() > deadline)
      throw new SetupError(`Another set-up (process ${owner}) holds ${file}: end it, or remove the file.`);
    else {
      if (!told) say(`Waiting for another set-up (process ${owner}) …`);
      await sleep(0.5);
    }
  }
  const release = () => fs.rmSync(file, { force: true });
  process.once('exit', release);
  try {
    await work();
  } finally {
    process.off('exit', release);
    release();
  }
}

// ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function main([command = 'setup', ...rest]) {
  if (!['setup', 'start', 'test'].includes(command)) {
    throw new SetupError(`Unknown command \`${command}\`: start, test or setup.`);
  }
  const home = path.resolve(ROOT, process.env.BERTH_HOME || '.berth');
  await withLock(async () => {
    await ensureDependencies();
    await ensureModels(home, command);
  });
  if (command === 'setup') return 0;
  const node = pinnedNode(ROOT);
  if (command === 'start') {
    return (await run(node, [path.join(ROOT, 'src', 'cli', 'main.ts'), 'serve', ...rest], { env: pinnedEnv(home) }))
      .code;
  }
  const env = pinnedEnv(null);
  if (!process.stdout.isTTY && !env.FORCE_COLOR) env.NO_COLOR = '1';
  const vitest = path.join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
  return (await run(node, [vitest, 'run', ...rest], { env })).code;
}

if (process.argv[1] && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  try {
    process.exitCode = await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(`\nSet-up stopped: ${error.message}`);
    process.exitCode = 1;
  }
}
