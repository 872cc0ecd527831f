import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/**
 * The agent as one file of JavaScript. The npm package brings it built; a checkout bundles it from the sources now, so
 * that the agent and this command can never differ.
 */
export async function agentBundle(): Promise<string> {
  if (!import.meta.url.endsWith('.ts')) return readFile(new URL('../../agent.mjs', import.meta.url), 'utf8');
  return bundleAgent(fileURLToPath(new URL('../pod/main.ts', import.meta.url)));
}

/** Bundles `entry` and everything it imports. Rejects with esbuild's error. */
export async function bundleAgent(entry: string): Promise<string> {
  const { build } = await import('esbuild');
  const result = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node22',
    format: 'esm',
    minify: true,
  });
  return result.outputFiles[0]?.text ?? '';
}
