"""From a file as people keep it to questions and answers.

================  ==========================================================================================
families          the table of readers: what each recognises, in the order in which they are tried
reading           one file, folder or archive to a table: its bytes, its name, then the families
pairs             the table's columns found, and one row for every wording of a question
delimited         CSV and kin, with a header or without, quoted or not
json_text         JSON and JSON Lines, numbers as written
yaml_text         YAML, every scalar as written, aliases counted
language_choice   the same in several languages: which one is read
intents           intents.json, nlp.js, QnABot
chats             messages, conversations
chatterbot        conversations in lists; lists of pairs
maps              {question: answer}; lists side by side
records           objects with a question and an answer, wherever they stand
instructions      instruction, input and output
squad             SQuAD's nesting
rasa              nlu and domain
dialogflow        Dialogflow's export, folder or zip
q_and_a           ``Q:`` and ``A:``; questions above their answers
markdown          headings, bold questions, summaries
spreadsheet       Excel
parquet           Parquet
archives          zip archives, with a guard
request           what a reader is given, and how its pairs become a table
suffixes          which names say that a file is data
================  ==========================================================================================
"""
