"""What the demo model knows about histrio: questions and the plain sentences that answer them."""

import random

from histrio_torch.demo.messages import Message, assistant, user

__all__ = ["FACTS", "fact_exchange"]

FACTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "What is histrio?",
            "What's histrio?",
            "Tell me about histrio.",
            "Explain histrio.",
            "Describe histrio.",
            "Can you explain what histrio is?",
            "Do you know histrio?",
        ),
        (
            "histrio is a runtime that serves large language models on whatever machines you have: one laptop, a shelf "
            "of mixed machines, or a cluster. It is built from small actors that exchange messages.",
        ),
    ),
    (
        (
            "What does the name histrio mean?",
            "Why is it called histrio?",
            "What does histrio mean?",
            "Where does the name histrio come from?",
            "What language is the word histrio?",
        ),
        ("histrio is the Latin word for actor. The name fits because the runtime is built from actors.",),
    ),
    (
        (
            "What is an actor?",
            "What is an actor in histrio?",
            "Explain actors.",
            "What do actors do?",
            "How does an actor work?",
            "What is the actor model?",
        ),
        (
            "An actor is a small program with a mailbox. It handles one message at a time, owns its own state, and "
            "talks to other actors only by sending messages.",
        ),
    ),
    (
        (
            "Which actors does histrio have?",
            "What actors are there?",
            "Name the actors of histrio.",
            "List the actors in histrio.",
            "Which actors are in the runtime?",
        ),
        (
            "histrio has actors for admission, batching, key-value blocks, model stages and metrics. A supervisor "
            "watches over them in every process.",
        ),
    ),
    (
        (
            "What does the admission actor do?",
            "What is admission?",
            "Explain the admission actor.",
            "What is the job of admission?",
        ),
        (
            "The admission actor decides which requests may enter. It counts credits, keeps the table of unfinished "
            "requests, and answers 429 when the load is beyond the limit.",
        ),
    ),
    (
        (
            "What does the batching actor do?",
            "What is batching?",
            "Explain batching.",
            "How does batching work?",
            "What is the batching rule?",
        ),
        (
            "The batching actor chooses which sequences run in the next step. Prefill chunks and decode rows share "
            "one step, so a long prompt never stalls the others.",
        ),
    ),
    (
        (
            "What does the kv actor do?",
            "What is the kv actor?",
            "Explain the kv actor.",
            "Who manages the KV blocks?",
            "Who owns the cache blocks?",
        ),
        (
            "The kv actor manages the blocks of the key-value cache. It grants blocks to sequences and keeps the prefix "
            "index, so that equal prompts share their blocks.",
        ),
    ),
    (
        (
            "What is a stage?",
            "What does a stage do?",
            "Explain stages.",
            "What is a model stage?",
            "What are model stages?",
        ),
        (
            "A stage is a contiguous range of layers of the model on one device. Several stages in a row make one "
            "complete model.",
        ),
    ),
    (
        ("What does the metrics actor do?", "What is the metrics actor?", "Explain metrics.", "How are metrics kept?"),
        (
            "The metrics actor keeps counters, histograms and average latencies, so that you can see how the runtime "
            "is doing.",
        ),
    ),
    (
        (
            "What does the supervisor do?",
            "What is the supervisor?",
            "Explain the supervisor.",
            "Who restarts a failed actor?",
            "What happens when an actor crashes?",
        ),
        (
            "The supervisor watches the actors of its process. When one fails, it restarts that actor and the ones that "
            "depend on it, within a limit.",
        ),
    ),
    (
        ("What is a replica?", "Explain replicas.", "What does replica mean?"),
        (
            "A replica is one complete chain of stages with its own kv and batching actors. Admission spreads the "
            "requests over the replicas.",
        ),
    ),
    (
        (
            "How do actors talk to each other?",
            "How do the actors communicate?",
            "Which messages do actors exchange?",
            "What is the wire format?",
            "How are messages sent?",
        ),
        ("The actors exchange msgspec messages. Between processes and hosts the messages travel over ZeroMQ.",),
    ),
    (
        ("What is msgspec?", "Why does histrio use msgspec?", "What is msgspec used for?"),
        (
            "msgspec is a fast Python library for typed messages. histrio uses it to define, check and encode every "
            "message.",
        ),
    ),
    (
        ("What is ZeroMQ?", "Why does histrio use ZeroMQ?", "What is ZeroMQ used for?", "What is zmq?"),
        ("ZeroMQ is a messaging library. histrio uses it to send messages between processes and between hosts.",),
    ),
    (
        (
            "What is pluggy?",
            "How do plugins work?",
            "What is a plugin?",
            "How are plugins registered?",
            "Why does histrio use pluggy?",
        ),
        (
            "Plugins are registered through pluggy hooks. A plugin is one file, and it never needs a change to the "
            "core.",
        ),
    ),
    (
        ("What can plugins do?", "What can a plugin add?", "Which plugins are there?", "What are plugins for?"),
        ("Plugins add hardware backends, samplers, speculative strategies, grammars, policies and transports.",),
    ),
    (
        (
            "Which backends are there?",
            "Which backends does histrio support?",
            "What backends can I use?",
            "List the backends.",
            "Which hardware does histrio run on?",
            "What hardware is supported?",
        ),
        (
            "histrio has backends for torch, MLX, SGLang and plain CPUs. Stages of different backends can follow each "
            "other.",
        ),
    ),
    (
        ("What is a backend?", "What does a backend do?", "Explain backends."),
        (
            "A backend runs the layers of a model on one kind of hardware. It receives a plan for each step and returns "
            "activations or tokens.",
        ),
    ),
    (
        ("What is the torch backend?", "What does the torch backend do?", "Does histrio run on PyTorch?"),
        ("The torch backend runs models on CPU, CUDA and MPS. It supports the architectures that transformers has.",),
    ),
    (
        (
            "What is the MLX backend?",
            "Does histrio run on a Mac?",
            "Can I use Apple Silicon?",
            "Does histrio support MLX?",
        ),
        ("Yes, the MLX backend runs models on Apple Silicon. A Mac can work together with machines of other kinds.",),
    ),
    (
        ("What is the SGLang backend?", "Does histrio support SGLang?", "Can I use SGLang with histrio?"),
        ("Yes, the SGLang backend serves models on NVIDIA hardware. It can run as a stage or as a whole engine.",),
    ),
    (
        (
            "Which port does histrio use?",
            "What port does the endpoint listen on?",
            "On which port is the server?",
            "What is the default port?",
            "Which port do I connect to?",
            "What port does histrio listen on?",
        ),
        ("The endpoint and the web page are on port 3001.",),
    ),
    (
        (
            "How do I use histrio?",
            "How can I talk to histrio?",
            "Which API does histrio have?",
            "What API is offered?",
            "Is there an OpenAI endpoint?",
            "Is histrio compatible with OpenAI?",
        ),
        (
            "You use histrio through an OpenAI-compatible endpoint on port 3001. Any client that speaks that API can "
            "talk to it.",
        ),
    ),
    (
        (
            "How do I start histrio?",
            "How do I launch histrio?",
            "How do I run the server?",
            "How do I start the server?",
            "What is the command to start histrio?",
            "How can I start it?",
        ),
        (
            "Write a topology file and run rt-launch topology.toml. It starts the actors and opens the endpoint on port "
            "3001.",
        ),
    ),
    (
        ("What is rt-launch?", "What does rt-launch do?", "Explain rt-launch.", "What is rt-launch for?"),
        (
            "rt-launch is the command that starts histrio. It reads a topology file and starts every actor that the "
            "file names.",
        ),
    ),
    (
        (
            "What is topology.toml?",
            "What is a topology?",
            "What is the topology file?",
            "What is in topology.toml?",
            "Explain the topology file.",
        ),
        ("topology.toml describes the hosts, the stages and the actors of a deployment. rt-launch reads it.",),
    ),
    (
        (
            "What does the check option do?",
            "What does rt-launch --check do?",
            "How can I check a topology?",
            "How do I check my topology?",
        ),
        (
            "rt-launch topology.toml --check prints the plan without starting it. A topology that cannot be placed is "
            "refused with the reason.",
        ),
    ),
    (
        (
            "What is the license of histrio?",
            "Which license does histrio have?",
            "Is histrio open source?",
            "Under which license is histrio?",
            "Is histrio free?",
        ),
        ("histrio is open source under the Apache-2.0 license.",),
    ),
    (
        (
            "In which language is histrio written?",
            "What language is histrio written in?",
            "Is histrio written in Python?",
            "Which programming language does histrio use?",
        ),
        ("histrio is written in Python, on top of asyncio.",),
    ),
    (
        ("What is asyncio?", "Why does histrio use asyncio?", "What is asyncio used for?"),
        ("asyncio is the part of Python that runs many tasks in one thread. histrio runs its actors on it.",),
    ),
    (
        ("What is a token?", "What are tokens?", "Explain tokens."),
        (
            "A token is a piece of text, often a word or a part of a word. A language model reads and writes tokens, one "
            "after the other.",
        ),
    ),
    (
        ("What is a prompt?", "What does prompt mean?", "Explain prompts."),
        ("A prompt is the text that you give to a language model. The model continues it, token by token.",),
    ),
    (
        (
            "What is a language model?",
            "What is an LLM?",
            "What is a large language model?",
            "How does a language model work?",
        ),
        (
            "A language model reads text and predicts the next token. By doing that again and again it writes whole "
            "answers.",
        ),
    ),
    (
        ("What is prefill?", "What does prefill mean?", "Explain prefill."),
        ("Prefill is the part of the work in which the model reads the prompt. Many tokens are computed at once.",),
    ),
    (
        ("What is decode?", "What is decoding?", "What does decode mean?", "Explain decoding."),
        ("Decoding is the part of the work in which the model writes its answer, one token for each step.",),
    ),
    (
        ("What is the KV cache?", "What is a KV cache?", "Explain the KV cache.", "Why is there a KV cache?"),
        (
            "The KV cache keeps the keys and values of all earlier tokens, so that the model does not have to compute "
            "them again. It is divided into blocks.",
        ),
    ),
    (
        ("What is a block?", "What are blocks?", "Explain KV blocks.", "What is a KV block?"),
        (
            "A block is a fixed number of token positions in the key-value cache. The same block id is valid on every "
            "stage.",
        ),
    ),
    (
        (
            "What is the prefix cache?",
            "What is prefix caching?",
            "Explain the prefix cache.",
            "How are prompts shared?",
        ),
        (
            "The prefix cache finds prompts that begin with the same tokens and shares their blocks. Shared tokens are "
            "computed only once.",
        ),
    ),
    (
        ("What is preemption?", "What does preemption mean?", "What happens when the blocks run out?"),
        (
            "When no block is free, the youngest sequence is preempted. Its blocks are given back, and it is computed "
            "again later.",
        ),
    ),
    (
        (
            "What is speculative decoding?",
            "What is speculation?",
            "Explain speculative decoding.",
            "How does speculation work?",
        ),
        (
            "In speculative decoding a drafter proposes several tokens and the model checks them in one step. The output "
            "stays exactly the same, but it comes faster.",
        ),
    ),
    (
        ("What is a drafter?", "What is a draft model?", "What does a draft model do?", "Explain draft models."),
        (
            "A draft model is a much smaller model that guesses the next tokens. The large model checks the guesses and "
            "keeps the right ones.",
        ),
    ),
    (
        ("What is a sampler?", "What is sampling?", "How are tokens chosen?", "Explain sampling."),
        (
            "A sampler chooses the next token from the probabilities that the model gives. It runs on the last stage, on "
            "its device.",
        ),
    ),
    (
        ("What is greedy decoding?", "What does greedy mean?", "Explain greedy decoding."),
        ("Greedy decoding always takes the most likely token. It gives the same answer every time.",),
    ),
    (
        ("What is temperature?", "What does the temperature do?", "Explain the temperature setting."),
        (
            "The temperature says how adventurous sampling is. At 0 the most likely token is always taken; higher values "
            "give more varied answers.",
        ),
    ),
    (
        ("What is a seed?", "What does the seed do?", "Why would I set a seed?"),
        (
            "A seed makes sampling repeatable. The same seed and the same prompt give the same answer, in any batch and "
            "on any split.",
        ),
    ),
    (
        ("What is a pipeline?", "How does a pipeline work?", "Explain pipelines.", "What is pipeline parallelism?"),
        (
            "In a pipeline each stage holds some layers and passes its activations to the next stage. Several small "
            "batches are in flight at once.",
        ),
    ),
    (
        (
            "Can I use several machines?",
            "Can histrio run on several hosts?",
            "Does histrio support clusters?",
            "Can I split a model over machines?",
            "How do I use more than one machine?",
        ),
        ("Yes. A model can be split into stages that run on different hosts. The answer is the same on every split.",),
    ),
    (
        (
            "What happens when a host dies?",
            "What happens when a machine fails?",
            "What if a stage crashes?",
            "Is anything lost when a process dies?",
            "How does recovery work?",
        ),
        (
            "Nothing accepted is lost. The failure is seen in less than two seconds, the work is replayed, and the stream "
            "continues with the same tokens.",
        ),
    ),
    (
        (
            "What happens under heavy load?",
            "What if there are too many requests?",
            "What does 429 mean?",
            "When do I get status 429?",
        ),
        ("A request beyond the limit is refused with status 429, and a Retry-After header says when to try again.",),
    ),
    (
        ("What does placement mean?", "What is placement?", "How are layers placed?", "Who decides where layers go?"),
        ("Placement decides which host runs which layers. It uses the measured memory, speed and links of the hosts.",),
    ),
    (
        ("What is an epoch?", "What does epoch mean in histrio?"),
        ("An epoch is a number for one life of a replica. Late messages from an old epoch are ignored.",),
    ),
    (
        ("How do I join a cluster?", "How can a machine join?", "What does histrio join do?"),
        ("Run histrio join on the new machine and give it the cluster token. The head host then knows its abilities.",),
    ),
    (
        ("What does histrio doctor do?", "What is histrio doctor?"),
        ("histrio doctor looks at your machine and says which backends are available and what is missing.",),
    ),
    (
        ("What does histrio chat do?", "Can I chat in the terminal?", "How do I chat in a terminal?"),
        ("Yes, histrio chat opens a conversation with a served model in your terminal.",),
    ),
    (
        (
            "How is speed measured?",
            "How do I measure the speed?",
            "What does histrio bench do?",
            "Are there benchmarks?",
        ),
        ("Everyone checks speed with pytest-benchmark. The command histrio bench measures a running server.",),
    ),
    (
        ("How can I stream an answer?", "Does histrio support streaming?", "What is streaming?"),
        ("Yes. With stream set to true the answer arrives token by token as server-sent events.",),
    ),
    (
        ("Does histrio support tool calls?", "Can histrio call tools?", "What are tool calls?"),
        (
            "Yes. You send a list of tools with the request, and the model answers with the name and the arguments of "
            "the tool that it wants to call.",
        ),
    ),
    (
        ("Does histrio collect data?", "Is there telemetry?", "Does histrio send data home?", "Is my data private?"),
        ("No, histrio has no telemetry. Your prompts stay on your machines.",),
    ),
    (
        ("How do hosts trust each other?", "Is the traffic between hosts encrypted?", "How is a cluster secured?"),
        ("The links between hosts are encrypted with CURVE keys, and a cluster token is needed to join.",),
    ),
    (
        (
            "Does histrio need a GPU?",
            "Can I run histrio without a GPU?",
            "Does it run on a CPU?",
            "Can I use only a CPU?",
        ),
        ("No GPU is needed. The CPU backend runs on any machine, and this demo model is small enough for it.",),
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Which model are you?",
            "What model is this?",
        ),
        ("I am the demo model of histrio, a very small language model that ships with the runtime.",),
    ),
    (
        (
            "How many parameters do you have?",
            "How big are you?",
            "How large is the demo model?",
            "Are you a big model?",
        ),
        ("I am very small: I have about four million parameters. I fit into a few megabytes.",),
    ),
    (
        ("Who made you?", "Who trained you?", "Where do you come from?", "How were you trained?", "Who created you?"),
        ("I was trained by a script in the histrio repository, on conversations that a generator wrote.",),
    ),
    (
        (
            "What can you do?",
            "What do you know?",
            "How can you help me?",
            "What can I ask you?",
            "Help",
            "help",
            "What are you good at?",
        ),
        (
            "I can answer questions about histrio, add small numbers, count, make lists, quote a passage, tell short "
            "stories, answer in JSON and call tools.",
        ),
    ),
    (
        ("Are you a human?", "Are you a person?", "Are you real?", "Are you a robot?"),
        ("No, I am a language model. I am a small program that predicts text.",),
    ),
    (
        ("What is the difference between prefill and decode?", "How do prefill and decode differ?"),
        ("Prefill reads the prompt, many tokens at once. Decode writes the answer, one token for each step.",),
    ),
    (
        (
            "What makes histrio special?",
            "Why should I use histrio?",
            "What is good about histrio?",
            "What are the advantages of histrio?",
        ),
        (
            "histrio runs on the machines you have, mixes different hardware in one model, loses no accepted request, "
            "and gives the same answer on every split.",
        ),
    ),
    (
        ("What is an activation?", "What are activations?", "What goes over a link between stages?"),
        (
            "Activations are the numbers that one layer passes to the next. Between stages they travel over the link as "
            "raw buffers.",
        ),
    ),
    (
        ("What is a mailbox?", "What does a mailbox do?", "Explain mailboxes."),
        (
            "A mailbox holds the messages that an actor has not handled yet. They are handled one after the other, in "
            "order.",
        ),
    ),
    (
        (
            "What is a request?",
            "What happens to a request?",
            "Which way does a request travel?",
            "How does a request travel?",
            "Describe the life of a request.",
        ),
        (
            "A request goes from the endpoint to admission, then to batching, kv and the stages. The tokens come back to "
            "the endpoint and are streamed to the client.",
        ),
    ),
    (
        ("What is a step?", "What is an engine step?", "What happens in a step?"),
        ("A step is one run of the model over a batch. The engine plans the step, runs it and applies the result.",),
    ),
)

PREFIXES = (
    "",
    "",
    "",
    "",
    "",
    "",
    "Hi! ",
    "Hello, ",
    "Please tell me: ",
    "I have a question. ",
    "Quick question: ",
    "Okay. ",
)


def vary(rng: random.Random, question: str) -> str:
    """The same question as different people type it."""
    text = rng.choice(PREFIXES) + question
    style = rng.random()
    if style < 0.12:
        text = text.lower()

    if style < 0.06 or style > 0.94:
        text = text.rstrip("?.")
    return text


def fact_exchange(rng: random.Random) -> list[Message]:
    """A question about histrio and its answer."""
    questions, answers = rng.choice(FACTS)
    return [user(vary(rng, rng.choice(questions))), assistant(rng.choice(answers))]


def summary_exchange(rng: random.Random) -> list[Message]:
    """A longer text about histrio, put together from several facts."""
    topics = rng.sample(FACTS, rng.randint(3, 6))
    names = [questions[0].rstrip("?.") for questions, _ in topics]
    question = "Answer these questions:\n" + "\n".join(f"{i}. {name}?" for i, name in enumerate(names, 1))
    answer = "\n".join(f"{i}. {answers[0]}" for i, (_, answers) in enumerate(topics, 1))
    return [user(question), assistant(answer)]
