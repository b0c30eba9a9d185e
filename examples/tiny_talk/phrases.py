"""The words that the dialogues are made of: names, colours, capitals, and the many ways to ask."""

NAMES = [
    "Aaron", "Abigail", "Ada", "Adam", "Adrian", "Agnes", "Ahmed", "Aisha", "Alan", "Alba", "Albert",
    "Alex", "Alexander", "Alexandra", "Ali", "Alice", "Alina", "Amanda", "Amelia", "Amir", "Amy", "Ana",
    "Andrea", "Andrew", "Andy", "Angela", "Anita", "Anna", "Anton", "Antonio", "Aria", "Arjun", "Arthur",
    "Astrid", "Aurora", "Austin", "Barbara", "Beatrice", "Bella", "Ben", "Benjamin", "Bernard", "Beth",
    "Bianca", "Bill", "Bob", "Brandon", "Brenda", "Brian", "Bruno", "Caleb", "Cameron", "Camila", "Carl",
    "Carla", "Carlos", "Carmen", "Caroline", "Catherine", "Charles", "Charlie", "Charlotte", "Chen",
    "Chloe", "Chris", "Christian", "Christina", "Christopher", "Claire", "Clara", "Claudia", "Connor",
    "Cora", "Cynthia", "Daisy", "Dan", "Dana", "Daniel", "Daphne", "Darius", "Dave", "David", "Deborah",
    "Dennis", "Derek", "Diana", "Diego", "Dominic", "Donna", "Dylan", "Edith", "Eduardo", "Edward",
    "Eleanor", "Elena", "Eli", "Elias", "Elizabeth", "Ella", "Ellen", "Elliot", "Emil", "Emilia", "Emily",
    "Emma", "Enzo", "Eric", "Erika", "Erin", "Esther", "Ethan", "Eva", "Evan", "Evelyn", "Fabian",
    "Fatima", "Felix", "Finn", "Fiona", "Francis", "Frank", "Frida", "Gabriel", "Gary", "Gemma", "George",
    "Gina", "Giulia", "Grace", "Greg", "Greta", "Gustav", "Hana", "Hannah", "Harper", "Harriet", "Harry",
    "Hassan", "Heather", "Hector", "Heidi", "Helen", "Henry", "Hiro", "Ian", "Ibrahim", "Ida", "Igor",
    "Ines", "Irene", "Iris", "Isaac", "Isabel", "Isabella", "Isaiah", "Ivan", "Jack", "Jacob", "Jade",
    "Jake", "Jakob", "Jamal", "James", "Jan", "Jane", "Jasmine", "Jason", "Javier", "Jean", "Jeff",
    "Jennifer", "Jenny", "Jeremy", "Jessica", "Jim", "Joan", "Joanna", "Joe", "Joel", "Johan", "John",
    "Jonathan", "Jordan", "Jorge", "Jose", "Joseph", "Joshua", "Juan", "Judith", "Julia", "Julian",
    "Justin", "Kai", "Karen", "Karim", "Karl", "Kate", "Katherine", "Kelly", "Ken", "Kenji", "Kevin",
    "Kim", "Klara", "Klaus", "Kyle", "Lara", "Lars", "Laura", "Layla", "Leila", "Lena", "Leo", "Leonard",
    "Leonie", "Levi", "Liam", "Lily", "Linda", "Lisa", "Liu", "Logan", "Louis", "Louisa", "Lucas",
    "Lucia", "Lucy", "Luis", "Luke", "Luna", "Madison", "Magnus", "Malik", "Manuel", "Marco", "Margaret",
    "Maria", "Marie", "Mario", "Mark", "Marta", "Martin", "Mary", "Mateo", "Matilda", "Matthew", "Max",
    "Maya", "Mehmet", "Mei", "Melanie", "Mia", "Michael", "Michelle", "Miguel", "Mike", "Mila", "Milan",
    "Milo", "Mohamed", "Molly", "Monica", "Nadia", "Naomi", "Natalie", "Nathan", "Nicholas", "Nick",
    "Nicole", "Niko", "Nikolai", "Nina", "Noah", "Nora", "Olaf", "Oliver", "Olivia", "Omar", "Oscar",
    "Otto", "Owen", "Pablo", "Pamela", "Patricia", "Patrick", "Paul", "Paula", "Pedro", "Penelope",
    "Peter", "Phil", "Philip", "Phoebe", "Pierre", "Priya", "Quentin", "Rachel", "Rafael", "Raj", "Ralph",
    "Raquel", "Raul", "Ravi", "Rebecca", "Ricardo", "Richard", "Rita", "Robert", "Robin", "Roger",
    "Roman", "Ronald", "Rosa", "Rose", "Ruby", "Ruth", "Ryan", "Sam", "Samantha", "Samuel", "Sandra",
    "Sara", "Sarah", "Sasha", "Scott", "Sean", "Sebastian", "Sergio", "Silvia", "Simon", "Simone",
    "Sofia", "Stefan", "Stella", "Stephanie", "Steve", "Steven", "Stuart", "Susan", "Sven", "Tanya",
    "Tara", "Teresa", "Theo", "Theodore", "Thomas", "Tim", "Timothy", "Tina", "Tobias", "Tom", "Tony",
    "Uma", "Ursula", "Valentina", "Vera", "Veronica", "Victor", "Victoria", "Vincent", "Viola", "Walter",
    "Wei", "Wendy", "William", "Willow", "Xavier", "Yara", "Yasmin", "Yuki", "Yusuf", "Yvonne", "Zachary",
    "Zara", "Zhang", "Zoe",
]  # fmt: skip
UNSEEN_NAMES = [
    "Boris", "Cecilia", "Dora", "Edgar", "Farid", "Gloria", "Hugo", "Ingrid", "Jonas", "Kamala", "Lorenzo",
    "Miriam", "Nelson", "Olga",
]  # fmt: skip

COLOURS = [
    "red", "blue", "green", "yellow", "orange", "purple", "pink", "black", "white", "brown", "grey", "gold",
    "silver", "turquoise", "violet",
]  # fmt: skip

CAPITALS = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna", "Belgium": "Brussels",
    "Brazil": "Brasilia", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing", "Colombia": "Bogota",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "England": "London", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "India": "New Delhi",
    "Indonesia": "Jakarta", "Iran": "Tehran", "Ireland": "Dublin", "Israel": "Jerusalem", "Italy": "Rome",
    "Japan": "Tokyo", "Kenya": "Nairobi", "Mexico": "Mexico City", "Morocco": "Rabat",
    "Netherlands": "Amsterdam", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon",
    "Russia": "Moscow", "Spain": "Madrid", "Sweden": "Stockholm", "Switzerland": "Bern",
    "Thailand": "Bangkok", "Turkey": "Ankara", "Ukraine": "Kyiv",
}  # fmt: skip

UNKNOWN_PLACES = [
    "Afghanistan", "Albania", "Algeria", "Angola", "Armenia", "Bangladesh", "Bolivia", "Botswana",
    "Bulgaria", "Cambodia", "Cameroon", "Chad", "Congo", "Croatia", "Cyprus", "Ecuador", "Estonia",
    "Ethiopia", "Fiji", "Georgia", "Ghana", "Guatemala", "Haiti", "Iceland", "Iraq", "Jamaica", "Jordan",
    "Kazakhstan", "Kuwait", "Laos", "Latvia", "Lebanon", "Liberia", "Libya", "Lithuania", "Luxembourg",
    "Malawi", "Malaysia", "Mali", "Malta", "Mongolia", "Namibia", "Nepal", "New Zealand", "Nigeria", "Oman",
    "Pakistan", "Panama", "Paraguay", "Philippines", "Qatar", "Romania", "Rwanda", "Senegal", "Serbia",
    "Singapore", "Slovakia", "Slovenia", "Somalia", "South Korea", "Sudan", "Syria", "Taiwan", "Tanzania",
    "Tunisia", "Uganda", "Uruguay", "Venezuela", "Vietnam", "Wales", "Yemen", "Zambia", "Zimbabwe", "Texas",
    "California", "Florida", "Ohio", "Bavaria", "Tuscany", "Quebec", "Siberia", "Scotland", "Hawaii",
    "Alaska", "Europe", "Africa", "Asia", "Chicago", "Boston", "Tel Aviv", "Munich", "Milan", "Shanghai",
    "Atlantis", "Narnia", "Mordor", "Wakanda", "Gondor", "Westeros", "Oz", "Wonderland", "Mars", "the Moon",
    "Utopia", "Neverland",
]  # fmt: skip

# Whole phrasings of a capital question are held out from training, so these are plain and many.
CAPITAL_QUESTIONS = [
    "What is the capital of {place}?", "What's the capital of {place}?",
    "Which city is the capital of {place}?", "Tell me the capital of {place}.",
    "Do you know the capital of {place}?", "What is the capital city of {place}?",
    "Name the capital of {place}.", "The capital of {place}?", "Capital of {place}?", "capital of {place}",
    "Can you tell me the capital of {place}?", "And the capital of {place}?", "{place}'s capital?",
    "What is {place}'s capital?", "{place}: what is its capital?", "Give me the capital of {place}.",
    "What city is the capital of {place}?", "Please name the capital city of {place}.",
    "And what about {place}'s capital?", "I would like to know the capital of {place}.",
    "Which city is {place}'s capital?", "What is the name of the capital of {place}?",
    "Could you name the capital of {place}?", "Do you know what the capital of {place} is?",
    "The capital city of {place} is?", "I forgot the capital of {place}. What is it?",
    "What do they call the capital of {place}?", "Which is the capital of {place}?",
    "Say the capital of {place}.", "What would be the capital of {place}?",
    "What was the capital of {place} again?", "{place}: which city is its capital?",
    "{place}: what is the capital?", "{place}? What is its capital?", "{place}: capital?",
    "For {place}, what is the capital?", "Where is the capital of {place}?", "Next: the capital of {place}.",
    "Quiz: what is the capital of {place}?",
]  # fmt: skip

SUM_QUESTIONS = [
    "What is {a} + {b}?", "What is {a} plus {b}?", "{a} + {b}", "{a}+{b}", "{a} plus {b}",
    "What's {a} + {b}?", "What's {a} plus {b}?", "How much is {a} plus {b}?", "How much is {a} + {b}?",
    "{a} + {b} = ?", "{a}+{b}=", "Add {a} and {b}.", "Please add {a} and {b}.",
    "What is the sum of {a} and {b}?", "Calculate {a} + {b}.", "What do you get if you add {a} to {b}?",
    "Can you add {a} and {b}?", "Compute {a} plus {b}.", "What is {a}+{b}?", "Add {a} to {b}.",
    "How much is {a}+{b}?", "And {a} + {b}?", "{a} and {b} make?", "Sum of {a} and {b}?",
    "I have {a} apples and get {b} more. How many apples do I have?", "Tell me {a} plus {b}.",
    "How many is {a} and {b} together?",
]  # fmt: skip

TELL_NAME = [
    "My name is {name}.", "I am {name}.", "I'm {name}.", "My name's {name}.", "Call me {name}.",
    "Please call me {name}.", "You can call me {name}.", "They call me {name}.",
    "My friends call me {name}.", "The name is {name}.", "{name} is my name.", "This is {name}.",
    "Hi, I am {name}.", "Hello, my name is {name}.", "Hi, my name is {name}!", "Hello! I'm {name}.",
    "Hey, I'm {name}.", "Good morning, I am {name}.", "By the way, my name is {name}.",
    "Please remember that my name is {name}.", "Remember my name: {name}.", "I am called {name}.",
    "Hi, {name} here.", "Let me introduce myself: I am {name}.", "Nice to meet you, I am {name}.",
    "Hello TinyTalk, I am {name}.",
]  # fmt: skip
ASK_NAME = [
    "What is my name?", "What's my name?", "Do you know my name?", "Do you remember my name?", "Who am I?",
    "Can you tell me my name?", "Tell me my name.", "Say my name.", "What did I say my name was?",
    "What am I called?", "Please tell me my name.", "Do you still know my name?", "What was my name again?",
    "How am I called?", "My name?", "Remind me of my name.", "Which name did I tell you?",
    "And what is my name?", "Do you remember who I am?", "What was my name?",
    "I forgot my name. What is it?",
]  # fmt: skip
TELL_COLOUR = [
    "My favourite colour is {colour}.", "My favorite color is {colour}.", "I like {colour}.",
    "I love {colour}.", "I like the colour {colour}.", "I love the color {colour}.",
    "The colour I like most is {colour}.", "{colour} is my favourite colour.",
    "{colour} is my favorite color.", "I like {colour} best.", "I like {colour} the most.",
    "My favourite color is {colour}.", "My favorite colour is {colour}.", "By the way, I like {colour}.",
    "Please remember that my favourite colour is {colour}.", "I really like {colour}.",
    "My colour is {colour}.", "Remember my favourite colour: {colour}.", "The color I love is {colour}.",
    "I prefer {colour}.", "Of all colours I like {colour} best.", "I also like {colour}.",
]  # fmt: skip
ASK_COLOUR = [
    "What is my favourite colour?", "What is my favorite color?", "What's my favourite colour?",
    "What's my favorite color?", "What is my favourite color?", "What is my favorite colour?",
    "Which colour do I like?", "Which color do I like?", "What colour do I like?",
    "What color do I like best?", "Which colour do I like most?", "Do you know my favourite colour?",
    "Do you remember my favourite colour?", "Do you remember my favorite color?",
    "Tell me my favourite colour.", "What colour did I say I like?", "Which colour is my favourite?",
    "My favourite colour?", "Can you tell me my favorite color?", "And my favourite colour?",
    "And what is my favourite colour?", "Remind me of my favourite colour.",
    "Do you still know which colour I like?", "What colour do I love?",
]  # fmt: skip
TELL_BOTH = [
    "My name is {name} and I like {colour}.", "I am {name} and my favourite colour is {colour}.",
    "Hi, my name is {name} and I like {colour}.", "I'm {name} and I love {colour}.",
    "My name is {name} and my favorite color is {colour}.",
    "My name is {name}. My favourite colour is {colour}.", "Hello, I am {name}. I like {colour}.",
    "Hi, I'm {name} and my favourite colour is {colour}.",
    "Call me {name}, and remember that I like {colour}.", "I like {colour} and my name is {name}.",
    "My favourite colour is {colour} and my name is {name}.", "Hi! I'm {name}, I like {colour}.",
]  # fmt: skip
ASK_BOTH = [
    "What is my name and my favourite colour?", "What is my name and what is my favorite color?",
    "Do you remember my name and my favourite colour?", "Tell me my name and my favourite colour.",
    "What do you know about me?", "Who am I and which colour do I like?",
    "What is my name, and which colour do I like?",
]  # fmt: skip

GREETINGS = {
    "Hello": "Hello", "Hi": "Hello", "Hey": "Hello", "Greetings": "Hello", "Hiya": "Hello", "Howdy": "Hello",
    "Welcome": "Hello", "Hello hello": "Hello", "Good day": "Good day", "Good morning": "Good morning",
    "Good afternoon": "Good afternoon", "Good evening": "Good evening",
}  # fmt: skip
GREETED = [
    "", "", " there", " TinyTalk", ", TinyTalk", " my friend", ", my friend", " computer", " again",
    " to you", " everybody", " you", " little model", ", robot", " and welcome", " dear model",
    " old friend", ", nice to see you",
]  # fmt: skip

SMALL_TALK = {
    "You are welcome!": [
        "Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!", "Many thanks.",
        "Great, thank you.", "Thx", "Thank you, TinyTalk.", "Perfect, thanks.", "Good, thanks!",
        "Okay, thank you.", "Thanks for your help.",
    ],
    "Goodbye!": [
        "Goodbye!", "Bye!", "Bye bye!", "See you!", "See you later.", "See you tomorrow.", "Good night.",
        "Farewell.", "I have to go now.", "Thanks, bye!", "That is all, goodbye.", "Take care!",
        "Until next time.",
    ],
    "I am TinyTalk, a very small language model.": [
        "Who are you?", "What are you?", "Who are you really?", "Tell me about yourself.",
        "Introduce yourself.", "Are you a robot?", "Are you a human?", "Are you a person?",
        "Are you a language model?", "Are you an AI?", "Which model are you?", "What model is this?",
        "Who am I talking to?",
    ],
    "My name is TinyTalk.": [
        "What is your name?", "What's your name?", "Do you have a name?", "Tell me your name.",
        "How are you called?", "And your name?", "And what is your name?", "What should I call you?",
        "Your name?", "May I ask your name?",
    ],
    "I am fine, thank you.": [
        "How are you?", "How are you doing?", "How are you today?", "Are you well?", "How do you do?",
        "Are you okay?", "How do you feel?", "How is it going?", "What's up?", "Are you fine?",
    ],
    "I can remember your name and your favourite colour, name capitals and add small numbers.": [
        "What can you do?", "What do you know?", "How can you help me?", "What are you able to do?", "Help!",
        "Help me.", "What are you good at?", "Can you help me?", "What can I ask you?",
    ],
    "I do not have a favourite colour.": [
        "What is your favourite colour?", "What's your favorite color?", "Which colour do you like?",
        "Do you have a favourite colour?", "What colour do you like best?", "And your favourite colour?",
    ],
    "All right.": [
        "Okay.", "Ok", "I see.", "Good.", "Fine.", "Great!", "Nice!", "Cool.", "Well done!", "Interesting.",
        "Yes.", "No.", "That is right.", "Correct!", "I like pizza.", "I like music.", "I have a dog.",
        "I love my cat.", "I am tired.", "I am happy today.", "I live in a small town.", "I work in a bank.",
        "It is a nice day.", "You are funny.", "I like you.", "I like dogs.", "I like football.",
        "I am hungry.", "I am bored.", "I love summer.",
    ],
}  # fmt: skip

# Questions that it cannot answer: templates filled from the word lists below, and strings of random words.
OFF_TOPIC = [
    "What is the weather in {city}?", "What is the weather like {time}?", "Will it rain {time}?",
    "Is it cold in {city}?", "How do I cook {food}?", "How do I make {food}?",
    "Give me a recipe for {food}.", "How long do I boil {food}?", "Who is the president of {city}?",
    "Who is the king of {city}?", "Who will win the election {time}?", "Who won the {contest} in {year}?",
    "Who won the {contest}?", "Which team won the {contest} {time}?", "When was {person} born?",
    "Who was {person}?", "Who is {person}?", "How old is {person}?", "Where does {person} live?",
    "Who wrote {work}?", "Who directed {work}?", "What is {work} about?", "When did {work} come out?",
    "How far is {city} from {place}?", "How many people live in {city}?", "Where is {city}?",
    "What language do they speak in {city}?", "How tall is {thing}?", "How heavy is {thing}?",
    "How does {thing} work?", "Why is {thing} so {quality}?", "What does {thing} mean?", "What is {thing}?",
    "How much does {thing} cost?", "Where can I buy {thing}?", "Who invented {thing}?",
    "Write a poem about {thing}.", "Tell me a joke about {thing}.", "Tell me a story about {thing}.",
    "Sing a song about {thing}.", "Explain {thing} to me.", "Translate {thing} into {language}.",
    "How do you say {thing} in {language}?", "What is the meaning of life?", "What time is it?",
    "What day is it {time}?", "What is the date {time}?", "Tell me a joke.", "Should I buy {thing} {time}?",
    "What is the best {thing}?", "What happened in {year}?", "What happened {time}?",
    "Can you book a flight to {city}?", "What is the news {time}?", "Is {thing} {quality}?",
    "Are you {quality}?", "What did I eat {time}?", "How old am I?", "Where do I live?", "What is my job?",
    "What is my favourite food?", "What is my favourite {thing}?", "When is my birthday?",
    "How many brothers do I have?", "What is my last name?", "What is the name of my dog?",
    "What is the name of my {thing}?", "What is the currency of {city}?",
    "What is the population of {city}?", "What is the largest city of {city}?",
    "What is the price of {thing}?", "What is the colour of {thing}?",
]  # fmt: skip
HARD_MATHS = [
    "What is {x} times {y}?", "What is {x} * {y}?", "How much is {x} minus {y}?", "What is {x} - {y}?",
    "{x} x {y}", "What is {x} divided by {y}?", "{x} / {y}", "{x} - {y}", "{x} * {y} = ?",
    "What is the square root of {x}?", "Is {x} a prime number?", "What is {x} percent of {y}?",
    "What is {large} + {x}?", "What is {x} + {large}?", "{large}+{x}", "{large} + {large}",
    "How much is {large} plus {x}?", "What is {x} plus {large}?", "Solve {x}x + {y} = 0.",
    "What is {x} to the power of {y}?", "What is the logarithm of {x}?",
    "What is the difference between {x} and {y}?",
]  # fmt: skip
FILLERS = {
    "city": [
        "London", "Paris", "New York", "Berlin", "Chicago", "Tokyo", "Rome", "Boston", "Sydney", "Madrid",
        "France", "Texas", "Cairo", "Lisbon", "Haifa", "Oslo", "Spain", "Italy", "Japan", "Brazil",
        "America", "Russia", "India",
    ],
    "time": [
        "today", "tomorrow", "tonight", "yesterday", "this week", "next week", "on Monday", "on Sunday",
        "last year", "this evening", "now",
    ],
    "food": [
        "pasta", "a pizza", "soup", "rice", "an omelette", "bread", "a cake", "pancakes", "chicken", "fish",
        "potatoes", "eggs", "curry", "beans", "a salad",
    ],
    "contest": [
        "world cup", "election", "Olympic games", "football match", "Super Bowl", "Nobel prize",
        "chess championship", "race", "final", "tennis match",
    ],
    "person": [
        "Albert Einstein", "Isaac Newton", "Shakespeare", "Napoleon", "Mozart", "Picasso", "Marie Curie",
        "Cleopatra", "Beethoven", "the president", "the queen", "Michael Jackson", "Aristotle", "Darwin",
        "my neighbour", "Ada Lovelace", "Alan Turing",
    ],
    "work": [
        "Hamlet", "Romeo and Juliet", "Star Wars", "Titanic", "The Hobbit", "War and Peace", "Moby Dick",
        "Harry Potter", "the Bible", "Faust", "this book",
    ],
    "thing": [
        "a car", "a house", "the sun", "a computer", "love", "gravity", "a phone", "an elephant",
        "the Eiffel tower", "a bicycle", "electricity", "a tree", "an atom", "the internet", "a ship",
        "money", "the sea", "a mountain", "coffee", "time", "the sky", "a cat", "a dog", "a plane", "music",
        "history", "a black hole", "movie", "animal", "book", "song", "sport", "photosynthesis", "a shark",
        "inflation",
    ],
    "quality": [
        "big", "small", "blue", "fast", "slow", "old", "expensive", "hot", "cold", "smart", "dangerous",
        "healthy", "famous", "important", "heavy", "happy",
    ],
    "language": [
        "French", "Spanish", "German", "Hebrew", "Chinese", "Latin", "Greek", "Russian", "Arabic",
    ],
}  # fmt: skip

SYSTEM_MESSAGES = [
    "You are a helpful assistant.", "You are TinyTalk.", "Answer shortly.", "You are a friendly assistant.",
    "Be brief and honest.", "You are a helpful assistant. Answer the questions of the user.", "Be polite.",
]  # fmt: skip
