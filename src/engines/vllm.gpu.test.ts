import { describeOnGpu } from '../../test/gpu/stories.ts';
import { gpuBytesOf } from '../config/nvidia.ts';
import { membersOf } from './memory.ts';
import { createVllmEngine } from './vllm.ts';

describeOnGpu('vllm', 'BERTH_VLLM', () =>
  createVllmEngine({ platform: 'gpu', deviceBytes: (group) => gpuBytesOf(membersOf(group)) }),
);
