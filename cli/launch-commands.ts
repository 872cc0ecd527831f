import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { splitWords } from './words.ts';

/** How the program in a folder may be started, and what says so. */
export type LaunchCommand = { command: string[]; from: string };

const MAX_BYTES = 1024 * 1024;

/** What the folder's own files say about how to start it, the likeliest first, each command once. A file that can't be read says nothing. */
export function findLaunchCommands(folder: string): LaunchCommand[] {
  const code = new Folder(folder);
  const found = [nodeCommands, dotnetCommands, goCommands, javaCommands, pythonCommands, otherCommands, dockerCommands]
    .flatMap((look) => look(code))
    .filter(({ command }) => command.length > 0);
  return found.filter(({ command }, i) => {
    const same = (other: LaunchCommand) => other.command.join('\0') === command.join('\0');
    return found.findIndex(same) === i;
  });
}

class Folder {
  readonly path: string;
  constructor(path: string) {
    this.path = path;
  }

  has(...names: string[]): string | undefined {
    return names.find((name) => existsSync(join(this.path, name)));
  }

  text(name: string): string {
    try {
      const path = join(this.path, name);
      return statSync(path).size <= MAX_BYTES ? readFileSync(path, 'utf8').replace(/^\uFEFF/, '') : '';
    } catch {
      return '';
    }
  }

  json(name: string): Record<string, unknown> {
    try {
      const value: unknown = JSON.parse(this.text(name).replace(/^\s*\/\/.*$/gm, ''));
      return fields(value);
    } catch {
      return {};
    }
  }

  /** Names in it or in a folder of it, sorted. */
  list(within = '.'): string[] {
    try {
      return readdirSync(join(this.path, within)).toSorted();
    } catch {
      return [];
    }
  }
}

function fields(value: unknown): Record<string, unknown> {
  return value && typeof value === 'object' && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function nodeCommands(code: Folder): LaunchCommand[] {
  const file = 'package.json';
  if (!code.has(file)) return [];
  const { scripts, main, packageManager } = code.json(file);
  const named = String(packageManager ?? '').split('@', 1)[0];
  const byLock = [
    ['pnpm', 'pnpm-lock.yaml'],
    ['yarn', 'yarn.lock'],
    ['bun', 'bun.lock'],
  ].find(([, lock]) => code.has(lock as string))?.[0];
  const manager = ['pnpm', 'yarn', 'bun'].find((each) => each === named) ?? byLock ?? 'npm';
  const there = Object.keys(fields(scripts));
  const order = ['start:dev', 'dev', 'start', 'serve', 'debug', 'start:debug'].filter((name) => there.includes(name));
  const started = order.map((name) => ({
    command: name === 'start' ? [manager, 'start'] : [manager, 'run', name],
    from: `${file}: ${fields(scripts)[name]}`,
  }));
  const entry = typeof main === 'string' ? main : code.has('server.js', 'index.js', 'app.js');
  return entry && code.has(entry) ? [...started, { command: ['node', entry], from: file }] : started;
}

/** launchSettings.json: only profiles that start the project itself; the others start IIS or a container. */
function dotnetCommands(code: Folder): LaunchCommand[] {
  const file = 'Properties/launchSettings.json';
  const profiles = Object.entries(fields(code.json(file).profiles))
    .filter(([, profile]) => fields(profile).commandName === 'Project')
    .map(([name]) => ({ command: ['dotnet', 'run', '--launch-profile', name], from: file }));
  const project = code.list().find((name) => /\.(cs|fs|vb)proj$/.test(name));
  return project ? [...profiles, { command: ['dotnet', 'run'], from: project }] : profiles;
}

function goCommands(code: Folder): LaunchCommand[] {
  if (!code.has('go.mod')) return [];
  const isMain = (path: string) => path.endsWith('.go') && /^package main\b/m.test(code.text(path));
  const root = code.list().some(isMain) ? [{ command: ['go', 'run', '.'], from: 'go.mod' }] : [];
  const programs = code
    .list('cmd')
    .filter((name) => code.list(`cmd/${name}`).some((file) => isMain(`cmd/${name}/${file}`)))
    .map((name) => ({ command: ['go', 'run', `./cmd/${name}`], from: `cmd/${name}` }));
  return [...root, ...programs];
}

function javaCommands(code: Folder): LaunchCommand[] {
  const found: LaunchCommand[] = [];
  if (code.has('pom.xml')) {
    const maven = code.has('mvnw') ? './mvnw' : 'mvn';
    const text = code.text('pom.xml');
    const goal = text.includes('spring-boot')
      ? 'spring-boot:run'
      : text.includes('quarkus')
        ? 'quarkus:dev'
        : text.includes('exec-maven-plugin')
          ? 'exec:java'
          : undefined;
    if (goal) found.push({ command: [maven, goal], from: 'pom.xml' });
  }
  const gradle = code.has('build.gradle.kts', 'build.gradle');
  if (gradle) {
    const text = code.text(gradle);
    const task = text.includes('springframework.boot') ? 'bootRun' : text.includes('quarkus') ? 'quarkusDev' : 'run';
    found.push({ command: [code.has('gradlew') ? './gradlew' : 'gradle', task], from: gradle });
  }
  return found;
}

function pythonCommands(code: Folder): LaunchCommand[] {
  const python = code.has('.venv/bin/python', 'venv/bin/python') ?? 'python3';
  if (code.has('manage.py')) {
    return [{ command: [python, 'manage.py', 'runserver'], from: 'manage.py' }];
  }
  const file = code.has('app.py', 'main.py', 'server.py');
  if (!file) return [];
  const app = /^(\w+)\s*=\s*FastAPI\(/m.exec(code.text(file))?.[1];
  const module = basename(file, '.py');
  const served = app ? [{ command: [python, '-m', 'uvicorn', `${module}:${app}`], from: file }] : [];
  return [...served, { command: [python, file], from: file }];
}

function otherCommands(code: Folder): LaunchCommand[] {
  const found: LaunchCommand[] = [];
  if (code.has('Cargo.toml') && code.has('src/main.rs')) found.push({ command: ['cargo', 'run'], from: 'Cargo.toml' });
  if (code.has('bin/rails')) found.push({ command: ['bin/rails', 'server'], from: 'bin/rails' });
  const web = /^web:\s*(.+)$/m.exec(code.text('Procfile'))?.[1];
  const words = web && !/[$|&;<>`]/.test(web) ? splitWords(web) : undefined;
  if (words) found.push({ command: words, from: 'Procfile' });
  return found;
}

/** ENTRYPOINT and CMD of the last stage, in their exec form: the shell form needs a shell. */
function dockerCommands(code: Folder): LaunchCommand[] {
  const lines = code
    .text('Dockerfile')
    .replaceAll(/\\\r?\n/g, ' ')
    .split(/\r?\n/);
  let entrypoint: string[] = [];
  let cmd: string[] = [];
  for (const line of lines) {
    const [, instruction, rest] = /^\s*(FROM|ENTRYPOINT|CMD)\s+(.+)$/i.exec(line) ?? [];
    if (!instruction || rest === undefined) continue;
    if (instruction.toUpperCase() === 'FROM') [entrypoint, cmd] = [[], []];
    else if (instruction.toUpperCase() === 'CMD') cmd = execForm(rest);
    else entrypoint = execForm(rest);
  }
  return [{ command: [...entrypoint, ...cmd], from: 'Dockerfile' }];
}

function execForm(text: string): string[] {
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) && value.every((word) => typeof word === 'string') ? value : [];
  } catch {
    return [];
  }
}
