import { basename } from 'node:path';

/** How a command is started so that a debugger can attach to it, and what VS Code is told to attach. */
export type Debugging = {
  command: string[];
  /** Of the line with which the program says that a debugger may come. */
  ready: string;
  /** For launch.json: type, request and where. */
  attach: Record<string, unknown>;
};

const HOST = '127.0.0.1';
const NODE_PORT = 9229;
const DLV_PORT = 2345;
const JDWP_PORT = 5005;
const JDWP_READY = 'Listening for transport dt_socket';

/** Undefined: of this program lpk knows no way to debug it. */
export function debugging(command: string[]): Debugging | undefined {
  const [program = '', ...args] = command;
  switch (basename(program).replace(/\.(exe|cmd)$/, '')) {
    case 'node':
      return node([program, `--inspect-brk=${HOST}:${NODE_PORT}`, ...args]);
    case 'npm':
      // https://docs.npmjs.com/cli/using-npm/config#node-options: for scripts, and not for npm itself.
      return node([program, `--node-options=--inspect=${HOST}:${NODE_PORT}`, ...args]);
    case 'go':
      return args[0] === 'run' ? go(args.slice(1)) : undefined;
    case 'java':
      return java([
        program,
        `-agentlib:jdwp=transport=dt_socket,server=y,suspend=y,address=${HOST}:${JDWP_PORT}`,
        ...args,
      ]);
    case 'gradle':
    case 'gradlew':
      // https://docs.gradle.org/current/userguide/application_plugin.html: suspended, on port 5005.
      return ['run', 'bootRun'].includes(args[0] ?? '') ? java([program, ...args, '--debug-jvm']) : undefined;
    default:
      return undefined;
  }
}

function node(command: string[]): Debugging {
  const skipFiles = ['<node_internals>/**'];
  const attach = { type: 'node', request: 'attach', address: HOST, port: NODE_PORT, continueOnAttach: true, skipFiles };
  return { command, ready: 'Debugger listening on ws://', attach };
}

function java(command: string[]): Debugging {
  return { command, ready: JDWP_READY, attach: { type: 'java', request: 'attach', hostName: HOST, port: JDWP_PORT } };
}

/** `go run [BUILD FLAGS] PACKAGE [ARGUMENTS]` as dlv has it; with flags for the build it is left to the person. */
function go([pkg = '.', ...args]: string[]): Debugging | undefined {
  if (pkg.startsWith('-')) return undefined;
  const listen = ['--headless', '--api-version=2', `--listen=${HOST}:${DLV_PORT}`];
  return {
    command: ['dlv', 'debug', pkg, ...listen, ...(args.length > 0 ? ['--', ...args] : [])],
    ready: 'API server listening at: ',
    attach: { type: 'go', request: 'attach', mode: 'remote', host: HOST, port: DLV_PORT },
  };
}
