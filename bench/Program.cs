return args is ["fast", ..] ? MimEngine.Bench.FastBench.Run(args.AsSpan(1)) : 0;
